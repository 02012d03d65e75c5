"""Intervals hold what they say, on data whose spread differs from row to row."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.models.intervals import Intervals, patient_weights, weighted_quantile

GENES = 30


def simulated(
    patients: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Noise grows with the prediction, and patients differ in their number of rows."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(50, 1500, patients))
    predicted = rng.gamma(2.0, 1.0, (len(patient), GENES))
    noise = rng.standard_t(5, predicted.shape) * (0.2 + 0.5 * predicted)
    return predicted + noise, predicted, patient


def test_coverage_of_further_patients() -> None:
    intervals = Intervals.fit(*simulated(12, 1))
    measured, predicted, _ = simulated(12, 2)
    within = intervals.covered(measured, predicted)
    assert 0.88 <= within.mean() <= 0.92
    assert (np.abs(within.mean(0) - 0.9) < 0.03).all()
    assert int(intervals.patients) == 12


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_the_level_is_kept_to(level: float) -> None:
    intervals = Intervals.fit(*simulated(10, 3), level=level)
    measured, predicted, _ = simulated(10, 4)
    assert abs(intervals.covered(measured, predicted).mean() - level) < 0.02


def test_the_correction_for_few_rows() -> None:
    """Of n equal weights it is the ⌈(n + 1) level⌉-th smallest, as split conformal prediction
    has it; few rows would fall short without."""
    rng = np.random.default_rng(0)
    for n in (9, 19, 20, 99, 137):
        values = rng.permutation(np.arange(1.0, n + 1))
        found = weighted_quantile(values, np.full(n, 1 / n), 0.9)
        assert found == min(np.ceil((n + 1) * 0.9), n)
    held = []
    for _ in range(4000):
        errors = np.abs(rng.normal(size=20))
        width = weighted_quantile(errors[:19], np.full(19, 1 / 19), 0.9)
        held.append(errors[19] <= width)
    assert 0.885 <= np.mean(held) <= 0.915


def test_every_patient_weighs_the_same() -> None:
    patients = np.array([0] * 900 + [1] * 100)
    weights = patient_weights(patients)
    assert weights[patients == 0].sum() == pytest.approx(0.5)
    assert weights.sum() == pytest.approx(1.0)
    # The small patient's errors are large: half of the weight lies above 1.
    measured = np.where(patients == 0, 0.5, 2.0)[:, None]
    intervals = Intervals.fit(measured, np.zeros((1000, 1)), patients, level=0.6)
    assert float(intervals.half_width[0]) == 2.0


def test_no_rows() -> None:
    nothing = np.zeros((0, 3))
    with pytest.raises(ValueError):
        Intervals.fit(nothing, nothing, np.zeros(0, np.int64))
