"""A question on a cohort: who is left out and why, and every figure and export that says so."""

import csv
import io
import json
import xml.etree.ElementTree as ET
from importlib.metadata import version

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from ml.errors import InputError
from ml.tasks.survival_analysis import Exclusion, Question, Stratifier, analyse
from ml.tasks.survival_figure import COLOURS, DASHES, plotly_figure, svg
from ml.tasks.survival_report import RUO, as_csv, as_json, format_p, methods
from ml.tasks.survival_strata import MOST_STRATA, Cut


def cohort(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "patient": [f"P{i:03}" for i in range(n)],
            "entry": 0.0,
            "time": np.round(rng.exponential(30, n), 1) + 0.1,
            "event": rng.random(n) < 0.6,
            "value": rng.normal(size=n),
        }
    )


GENE = Stratifier("measured", "MKI67", "MKI67", "log1p", table="bulk RNA")


def asked(**changes):
    fields = {
        "study": "A study", "endpoint": "OS", "endpoint_label": "Overall survival",
        "time_zero": "diagnosis", "stratifier": GENE, "cut": Cut.MEDIAN,
    }  # fmt: skip
    return Question(**fields | changes)


def reasons(analysis):
    return {exclusion.reason: exclusion.patients for exclusion in analysis.exclusions}


def test_everybody_is_accounted_for():
    frame = cohort()
    frame.loc[0, "time"] = np.nan
    frame.loc[[1, 2], "value"] = np.nan
    frame.loc[3, ["entry", "time"]] = 5.0
    before = [Exclusion("was there before", ("X1", "X2")), Exclusion("nobody", ())]
    analysis = analyse(asked(), frame, before)
    assert reasons(analysis) == {
        "was there before": ("X1", "X2"),
        "No OS outcome recorded": ("P000",),
        "No time under observation (entry at the time of the outcome)": ("P003",),
        "MKI67 missing": ("P001", "P002"),
    }
    assert analysis.n_cohort == 62
    assert analysis.result.n + sum(map(len, reasons(analysis).values())) == analysis.n_cohort


def test_horizon_censors_what_comes_later():
    frame = cohort()
    analysis = analyse(asked(horizon=12), frame)
    assert analysis.result.n == 60
    assert analysis.result.events == (frame.event & (frame.time <= 12)).sum()
    assert max(curve.time[-1] for curve in analysis.result.curves) <= 12
    assert "censored at 12 months" in methods(analysis)


def test_landmark_compares_those_still_there_and_starts_the_clock():
    frame = cohort()
    analysis = analyse(asked(landmark=10), frame)
    gone = frame.patient[frame.time <= 10]
    assert reasons(analysis) == {
        "Event or end of follow-up before the landmark at 10 months": tuple(gone)
    }
    assert analysis.result.table.at_risk[:, 0].sum() == (frame.time > 10).sum()
    longest = max(curve.time[-1] for curve in analysis.result.curves)
    assert longest == pytest.approx(frame.time.max() - 10)


def test_cut_off_is_of_the_patients_that_are_analysed():
    frame = cohort()
    frame["value"] = np.r_[np.full(30, 100.0), np.arange(30.0)]
    frame.loc[:29, "time"] = np.nan
    (cutoff,) = analyse(asked(), frame).strata.cutoffs
    assert cutoff.value == 14.5


def test_without_a_stratifier_there_is_one_curve_and_no_test():
    analysis = analyse(asked(stratifier=None, cut=Cut.NONE), cohort())
    assert [curve.label for curve in analysis.result.curves] == ["All patients"]
    assert analysis.result.log_rank is None
    assert as_json(analysis)["log_rank"] is None


def test_delayed_entry_is_named_wherever_the_test_is():
    frame = cohort()
    frame["entry"] = np.where(np.arange(60) % 3 == 0, frame.time / 2, 0.0)
    analysis = analyse(asked(), frame)
    said = "likelihood-ratio test; log-rank does not allow for delayed entry"
    assert as_json(analysis)["log_rank"]["test"] == "likelihood-ratio"
    assert as_json(analysis)["log_rank"]["explained"] == said
    assert any(said in note for note in as_json(analysis)["notes"])
    assert said in methods(analysis) and "Schoenfeld" not in methods(analysis)
    assert "likelihood-ratio p" in svg(analysis) and "log-rank p" not in svg(analysis)


def test_methods_name_the_library():
    text = methods(analyse(asked(), cohort()))
    assert f"Curves and comparisons by lifelines {version('lifelines')}." in text
    assert "by the log-rank test (χ²" in text and ", Schoenfeld p" in text


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("survival.horizon", {"horizon": -1.0}),
        ("survival.landmark", {"landmark": float("nan")}),
        ("survival.landmark", {"landmark": 24.0, "horizon": 12.0}),
        ("survival.no_patients", {"landmark": 10_000.0}),
        ("survival.cut", {"cut": Cut.LEVELS}),
    ],
)
def test_questions_that_have_no_answer(code, changes):
    with pytest.raises(InputError) as caught:
        analyse(asked(**changes), cohort())
    assert caught.value.code == code


def test_nobody_left_says_why():
    frame = cohort().assign(value=np.nan)
    with pytest.raises(InputError, match="60: MKI67 missing"):
        analyse(asked(), frame)


def test_category_with_a_cut_for_numbers_is_refused():
    frame = cohort().assign(value="I")
    stage = Stratifier("clinical", "stage", "Stage", numeric=False)
    with pytest.raises(InputError) as caught:
        analyse(asked(stratifier=stage), frame)
    assert caught.value.code == "survival.cut"


@pytest.mark.parametrize(
    ("p", "shown"),
    [(0.00009, "< 0.0001"), (0.0001, "0.0001"), (0.00131, "0.0013"), (0.0241, "0.024"),
     (0.314, "0.31"), (1.0, "1.00"), (None, "–"), (float("nan"), "–")],
)  # fmt: skip
def test_p_values_as_people_write_them(p, shown):
    assert format_p(p) == shown


def predicted():
    stratifier = Stratifier(
        "predicted", "ESR1", "ESR1 (predicted)", "log1p", table="PAST v3 expression",
        model="PAST v3",
    )  # fmt: skip
    return analyse(asked(stratifier=stratifier, synthetic=True, trained_on=2), cohort())


def test_every_export_says_research_only_synthetic_and_predicted():
    analysis = predicted()
    must = [RUO, "Synthetic data", "Predicted by PAST v3", "Includes 2 training patients"]
    texts = {
        "csv": as_csv(analysis),
        "methods": methods(analysis),
        "json": json.dumps(as_json(analysis), ensure_ascii=False),
        "svg": "".join(ET.fromstring(svg(analysis)).itertext()),
    }
    for name, text in texts.items():
        for words in must:
            assert words in text, f"{words} is not in the {name}"


def test_measured_and_real_says_neither_synthetic_nor_predicted():
    text = as_csv(analyse(asked(), cohort()))
    assert RUO in text
    assert "ynthetic" not in text and "redicted" not in text


def test_csv_is_the_life_table():
    analysis = analyse(asked(), cohort())
    lines = as_csv(analysis).splitlines()
    body = [line for line in lines if not line.startswith("#")]
    rows = list(csv.DictReader(io.StringIO("\n".join(body))))
    for curve in analysis.result.curves:
        mine = [row for row in rows if row["stratum"] == curve.label]
        assert int(mine[0]["at_risk"]) == curve.n
        assert sum(int(row["events"]) for row in mine) == curve.events
        product = 1.0
        for row in mine:
            product *= 1 - int(row["events"]) / int(row["at_risk"])
            assert float(row["survival"]) == pytest.approx(product, abs=1e-6)


def test_svg_shows_the_table_and_is_the_same_each_time():
    analysis = analyse(asked(cut=Cut.TERTILES), cohort())
    drawn = svg(analysis)
    text = list(ET.fromstring(drawn).itertext())
    for label in analysis.result.table.labels:
        assert label in text
    assert text.count("At risk") == 3
    assert drawn == svg(analysis)


def test_plotly_figure_is_valid_and_its_ticks_are_the_tables():
    analysis = analyse(asked(cut=Cut.QUARTILES), cohort(n=200))
    figure = plotly_figure(analysis)
    go.Figure(figure)  # plotly's own validation of every property
    assert json.loads(json.dumps(figure, allow_nan=False)) == figure
    assert figure["layout"]["xaxis"]["tickvals"] == analysis.result.table.ticks.tolist()
    curves = [trace for trace in figure["data"] if trace["meta"]["part"] == "curve"]
    assert len({trace["line"]["dash"] for trace in curves}) == 4
    assert len({trace["line"]["color"] for trace in curves}) == 4
    assert all(0 <= y <= 100 for trace in figure["data"] for y in trace["y"])


def test_curve_and_tail_join_into_the_whole_curve():
    analysis = analyse(asked(), cohort(n=200))
    figure = plotly_figure(analysis)
    for index, curve in enumerate(analysis.result.curves):
        parts = [
            t for t in figure["data"]
            if t["legendgroup"] == str(index) and t["meta"]["part"] in ("curve", "tail")
        ]  # fmt: skip
        x = np.concatenate([t["x"] for t in parts])
        y = np.concatenate([t["y"] for t in parts])
        assert len(parts) == 2 and np.all(np.diff(x) >= 0)
        for month in np.linspace(0, curve.time[-1], 50):
            drawn = y[np.searchsorted(x, month, side="right") - 1]
            true = curve.survival[np.searchsorted(curve.time, month, side="right") - 1]
            assert drawn == pytest.approx(100 * true, abs=1e-3)


def test_there_are_colours_and_dashes_for_every_stratum():
    assert len(set(COLOURS)) == len(set(DASHES)) == MOST_STRATA
