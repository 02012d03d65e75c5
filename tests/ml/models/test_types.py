"""The probe, its calibration, and neighbours that vote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ml.evaluation.classification import calibration_error, confusions, macro_f1, scores
from ml.models.types import (
    TypeProbe,
    choose_penalty,
    fitted_temperature,
    nearest_votes,
)

NAMES = ["tumour", "t_cell", "b_cell"]


def drawn(n: int, apart: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n)
    centres = apart * np.eye(3, 8)
    return (
        torch.from_numpy((centres[codes] + rng.normal(size=(n, 8))).astype(np.float32)),
        torch.from_numpy(codes),
    )


def test_the_probe_is_the_regression_that_scikit_learn_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    rows, codes = drawn(600, 1.5)
    penalty = 1e-2
    probe = TypeProbe.fit(rows, codes, NAMES, penalty)
    inputs = probe.standardised(rows).numpy().astype(np.float64)
    other = LogisticRegression(C=1 / (penalty * len(rows)), tol=1e-8, max_iter=5000)
    expected = other.fit(inputs, codes.numpy()).predict_proba(inputs)
    assert np.abs(probe.probabilities(rows).numpy() - expected).max() < 2e-3


def test_inputs_are_standardised_and_constants_do_no_harm() -> None:
    rows, codes = drawn(600, 2.0)
    first = TypeProbe.fit(rows, codes, NAMES, 1e-2).probabilities(rows)
    moved = torch.cat([rows * 50 + 7, torch.full((600, 1), 3.0)], dim=1)
    again = TypeProbe.fit(moved, codes, NAMES, 1e-2).probabilities(moved)
    assert (first - again).abs().max() < 1e-2


def test_a_temperature_makes_overconfident_probabilities_right() -> None:
    rows, codes = drawn(4000, 1.0, seed=1)
    fresh, truth = drawn(4000, 1.0, seed=2)
    probe = TypeProbe.fit(rows, codes, NAMES, 1e-4)
    with torch.no_grad():
        probe.weight *= 4
        probe.bias *= 4
    before = calibration_error(probe.probabilities(fresh).numpy(), truth.numpy())
    probe.calibrate(*drawn(4000, 1.0, seed=3))
    after = calibration_error(probe.probabilities(fresh).numpy(), truth.numpy())
    assert before > 0.08
    assert after < 0.03
    assert float(probe.temperature) == pytest.approx(4, rel=0.15)


def test_weights_of_the_temperature_count() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    codes = torch.tensor([0, 0, 1])
    sure = fitted_temperature(logits, codes, torch.tensor([0.45, 0.45, 0.1]))
    # The optimum gives the weighted share of right calls: softmax(2 / T) = 0.9.
    assert 1 / (1 + np.exp(-2 / sure)) == pytest.approx(0.9, abs=1e-3)


def test_the_penalty_is_chosen_on_patients_left_out() -> None:
    """Noise that tells patients apart must not be learned: a strong penalty wins."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(6), 20)
    codes = torch.from_numpy(rng.integers(0, 3, 120))
    noise = torch.from_numpy(rng.normal(size=(120, 40)).astype(np.float32))
    assert choose_penalty(noise, codes, patients, NAMES) == 0.1
    rows, clear = drawn(3000, 3.0)
    of = np.arange(3000) % 6
    assert choose_penalty(rows, clear, of, NAMES) < 0.1
    assert choose_penalty(rows, clear, np.zeros(3000, np.int64), NAMES) == 0.1


def test_neighbours_vote_as_in_a_literal_loop() -> None:
    rows, codes = drawn(211, 1.0)
    queries, _ = drawn(57, 1.0, seed=5)
    found = nearest_votes(rows, codes, queries, 3, 7).numpy()
    for query, votes in zip(queries.double().numpy(), found, strict=True):
        distance = [float(((query - row) ** 2).sum()) for row in rows.double().numpy()]
        nearest = sorted(range(len(distance)), key=distance.__getitem__)[:7]
        expected = [0.0, 0.0, 0.0]
        for row in nearest:
            expected[int(codes[row])] += 1 / 7
        np.testing.assert_allclose(votes, expected, atol=1e-6)


def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import balanced_accuracy_score, f1_score

    rng = np.random.default_rng(4)
    truth = rng.integers(0, 3, 500)
    probabilities = rng.dirichlet(np.ones(3), 500)
    probabilities[np.arange(500), truth] += 0.4
    probabilities /= probabilities.sum(1, keepdims=True)
    called = probabilities.argmax(1)
    found = scores(probabilities, truth, np.arange(500) % 8, NAMES, np.zeros(500, np.int64))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, called, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, called))
    assert found["per_type"]["t_cell"]["n"] == (truth == 1).sum()
    zero = f1_score(truth, np.zeros(500, int), average="macro", zero_division=0)
    assert found["difference"] == pytest.approx(found["macro_f1"] - zero)
    assert found["macro_f1_low"] < found["macro_f1"] < found["macro_f1_high"]
    assert found["difference_low"] < found["difference"] < found["difference_high"]
    few = scores(probabilities, truth, np.arange(500) % 3, NAMES)
    assert few["macro_f1_low"] is None
    assert "difference" not in few


def test_a_type_without_rows_has_no_say() -> None:
    truth = np.array([0, 0, 1, 1])
    confusion = confusions(truth, np.array([0, 0, 1, 1]), np.zeros(4, np.int64), 3)
    assert macro_f1(confusion[0]) == 1.0
    probabilities = np.eye(3)[truth]
    found = scores(probabilities, truth, np.zeros(4, np.int64), NAMES)
    assert found["per_type"]["b_cell"] == {"f1": None, "precision": None, "recall": None, "n": 0}


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    truth = np.array([0, 1, 0, 0])
    # Bins of 0.9: half right, 0.4 off; of 0.6: all right, 0.4 off.
    assert calibration_error(probabilities, truth) == pytest.approx(0.4)


def test_probes_and_intervals_come_back_with_the_model(tmp_path: Path) -> None:
    from ml.models import checkpoint
    from ml.models.config import Architecture, ModelConfig
    from ml.models.features import default_spec
    from ml.models.intervals import Intervals
    from ml.models.past import PAST
    from ml.tokens.vocabulary import Vocabulary

    config = ModelConfig(
        encoder="efficientnet_lite0",
        features=default_spec("cell", None),
        architecture=Architecture(dim=8, hidden=16, rank=2, cell_layers=1),
        vocabulary=Vocabulary(("A", "B"), np.ones(2, np.float32)),
        row_kind="cell",
        spot_diameter_um=None,
        spot_pitch_um=None,
        mpp=0.5,
    )
    model = PAST(config)
    checkpoint.save(model, tmp_path / "without")
    without = checkpoint.load(tmp_path / "without")
    assert without.types is None and without.intervals is None
    rows, codes = drawn(300, 2.0)
    model.types = TypeProbe.fit(rows, codes, NAMES, 1e-2)
    model.types.calibrate(rows, codes)
    rng = np.random.default_rng(0)
    model.intervals = Intervals.fit(rng.normal(size=(50, 2)), np.zeros((50, 2)), np.arange(50) % 4)
    checkpoint.save(model, tmp_path / "with")
    loaded = checkpoint.load(tmp_path / "with")
    assert loaded.types is not None and loaded.intervals is not None
    assert loaded.types.names == NAMES
    torch.testing.assert_close(loaded.types.probabilities(rows), model.types.probabilities(rows))
    torch.testing.assert_close(loaded.intervals.half_width, model.intervals.half_width)
    assert int(loaded.intervals.patients) == 4
