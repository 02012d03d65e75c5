"""The risk model: honest out of fold, better than the clinical one only where there is a signal."""

import json

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index

from ml.errors import InputError
from ml.report import ConsoleReport
from ml.tasks.concordance import Pairs, bootstrap, concordance
from ml.tasks.survival_fit import Design, RidgeCox, run, split


def cohort(signal, n=160, seed=1, late=False):
    """Age and sex matter a little; gene G0 by `signal` per standard deviation; G1–G9 do not."""
    rng = np.random.default_rng(seed)
    genes = rng.normal(size=(n, 10))
    age = rng.normal(60, 10, n)
    sex = np.where(rng.random(n) < 0.5, "female", "male")
    hazard = 0.02 * np.exp(0.02 * (age - 60) + 0.2 * (sex == "male") + signal * genes[:, 0])
    hidden, limit = rng.exponential(1 / hazard), rng.uniform(10, 120, n)
    time = np.minimum(hidden, limit)
    frame = pd.DataFrame(
        {
            "patient": [f"P{i}" for i in range(n)],
            "entry": time * rng.random(n) * 0.8 * (rng.random(n) < 0.3) if late else 0.0,
            "time": time,
            "event": hidden <= limit,
            "age": age,
            "sex": sex,
        }
    )
    return pd.concat([frame, pd.DataFrame(genes, columns=[f"G{i}" for i in range(10)])], axis=1)


def fitted(tmp_path, frame, clinical=("age", "sex"), features=("G0", "G1", "G2"), **params):
    path = tmp_path / "cohort.parquet"
    frame.to_parquet(path)
    asked = {"endpoint": "OS", "clinical": list(clinical), "features": list(features), "folds": 3}
    asked |= params
    result = run(asked, {"cohort": str(path)}, tmp_path, ConsoleReport())
    return result, pd.read_parquet(tmp_path / "risks.parquet")


def test_planted_gene_beats_the_clinical_model(tmp_path):
    frame = cohort(signal=1.0)
    result, risks = fitted(tmp_path, frame)
    gain = result["metrics"]["gain_over_clinical"]
    assert gain["low"] > 0
    assert result["metrics"]["concordance"]["risk"]["value"] > 0.7
    assert risks.index.tolist() == frame.patient.tolist()
    assert risks.index.name == "patient"
    assert risks[["risk", "risk_clinical"]].min().min() >= 0
    assert risks[["risk", "risk_clinical"]].max().max() <= 100
    model = json.loads((tmp_path / "model.json").read_text())
    weights = {c["name"]: c["log_hazard_per_sd"] for c in model["models"]["risk"]["covariates"]}
    assert set(weights) == {"age", "sex=male", "G0", "G1", "G2"}
    assert weights["G0"] == max(weights.values(), key=abs)


def test_null_genes_predict_nothing(tmp_path):
    found = []
    for seed in range(2):
        frame = cohort(signal=0.0, n=240, seed=seed)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(frame))
        frame[["time", "event"]] = frame[["time", "event"]].to_numpy()[order]
        frame["event"] = frame["event"].astype(bool)
        frame["time"] = frame["time"].astype(float)
        result, _ = fitted(tmp_path, frame, clinical=(), features=["G1", "G2", "G3"])
        found.append(result["metrics"]["concordance"]["risk"]["value"])
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_a_patients_risk_does_not_depend_on_their_own_outcome(tmp_path):
    frame = cohort(signal=1.0, n=90)
    _, before = fitted(tmp_path, frame, clinical=["age"], features=["G0"])
    # The same fold assignment as long as the event stays: only the time of P0 changes.
    changed = frame.copy()
    changed.loc[0, "time"] = 500.0 if frame.time[0] < 60 else 0.5
    _, after = fitted(tmp_path, changed, clinical=["age"], features=["G0"])
    raw = [RidgeCox.fit(f[before.fold.to_numpy() != before.fold["P0"]], ["age", "G0"], 0.1)
           for f in (frame, changed)]  # fmt: skip
    assert raw[0].beta == pytest.approx(raw[1].beta)
    assert before.fold["P0"] == after.fold["P0"]
    assert before.risk["P0"] == after.risk["P0"]


def test_same_seed_same_result(tmp_path):
    frame = cohort(signal=0.5, n=80)
    one, _ = fitted(tmp_path, frame, folds=2, seed=7)
    two, _ = fitted(tmp_path, frame, folds=2, seed=7)
    assert one == two


def test_entry_times_are_used(tmp_path):
    frame = cohort(signal=1.0, n=80, late=True)
    result, _ = fitted(tmp_path, frame, folds=2)
    without, _ = fitted(tmp_path, frame.assign(entry=0.0), folds=2)
    assert result["metrics"]["concordance"] != without["metrics"]["concordance"]


def test_incomplete_patients_are_left_out_and_counted(tmp_path):
    frame = cohort(signal=1.0, n=80)
    frame.loc[:4, "G0"] = np.nan
    frame.loc[5, "sex"] = None
    frame.loc[6, "time"] = np.nan
    result, risks = fitted(tmp_path, frame, folds=2)
    assert result["metrics"]["left_out_incomplete"] == 7
    assert not set(frame.patient[:7]) & set(risks.index)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("fit.columns", {"clinical": [], "features": []}),
        ("fit.columns", {"features": ["nowhere"]}),
        ("fit.folds", {"folds": 1}),
    ],
)
def test_bad_requests(tmp_path, code, changes):
    with pytest.raises(InputError) as caught:
        fitted(tmp_path, cohort(signal=0, n=60), **changes)
    assert caught.value.code == code
    assert not (tmp_path / "risks.parquet").exists()


def test_too_few_events(tmp_path):
    frame = cohort(signal=0, n=60)
    frame["event"] = [True] * 6 + [False] * 54
    with pytest.raises(InputError) as caught:
        fitted(tmp_path, frame)
    assert caught.value.code == "fit.too_few_events"


def test_design_learns_on_its_own_rows_only():
    train = pd.DataFrame({"x": [0.0, 2.0], "stage": ["I", "II"]})
    design = Design.fit(train, ["x", "stage"])
    new = design.transform(pd.DataFrame({"x": [100.0], "stage": ["IV"]}))
    assert new[0, 0] == 99  # mean 1, standard deviation 1, of the training rows
    assert design.names == ("x", "stage=II")


def test_folds_share_the_events_evenly():
    event = np.r_[np.ones(23, bool), np.zeros(54, bool)]
    fold = split(event, 5, np.random.default_rng(0))
    assert set(np.bincount(fold[event])) <= {4, 5}
    assert set(np.bincount(fold)) <= {15, 16}


def test_concordance_agrees_with_lifelines():
    rng = np.random.default_rng(0)
    time, event = rng.permutation(200) + 1.0, rng.random(200) < 0.5
    score = np.round(rng.normal(size=200), 1)
    pairs = Pairs.of(time, event, np.zeros(200))
    expected = concordance_index(time, -score, event)
    assert concordance(pairs, score) == pytest.approx(expected)


def test_who_entered_later_makes_no_pair_with_an_earlier_event():
    time, event = np.array([2.0, 5.0, 6.0]), np.array([True, False, True])
    entry = np.array([0.0, 3.0, 0.0])
    pairs = Pairs.of(time, event, entry)
    assert pairs.comparable.tolist() == [[0, 0, 1], [0, 0, 0]]


def test_scores_of_different_folds_are_not_compared():
    time, event = np.arange(1.0, 7.0), np.ones(6, bool)
    fold = np.array([0, 0, 0, 1, 1, 1])
    score = np.array([3.0, 2.0, 1.0, 30.0, 20.0, 10.0])  # right in each fold, wrong across
    assert concordance(Pairs.of(time, event, np.zeros(6), fold), score) == 1
    assert concordance(Pairs.of(time, event, np.zeros(6)), score) < 1


def test_bootstrap_covers_and_is_paired():
    rng = np.random.default_rng(0)
    time = rng.exponential(10, 150)
    pairs = Pairs.of(time, np.ones(150, bool), np.zeros(150))
    score = -time + rng.normal(0, 5, 150)
    draws = bootstrap(pairs, {"a": score, "b": score}, 150, seed=1, rounds=300)
    assert (draws["a"] == draws["b"]).all()
    low, high = np.quantile(draws["a"], [0.025, 0.975])
    assert low < concordance(pairs, score) < high
