"""How well cells are told apart: macro-F1, balanced accuracy and calibration, by patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.bootstrap import MIN_UNITS
from ml.evaluation.metrics import Floats

RESAMPLES = 1000
BINS = 15


def confusions(
    truth: NDArray[np.integer[Any]],
    called: NDArray[np.integer[Any]],
    units: NDArray[np.integer[Any]],
    types: int,
) -> Floats:
    """Counts of (true type, called type) of each unit (patient): (units, types, types)."""
    _, unit = np.unique(units, return_inverse=True)
    count = int(unit.max(initial=-1)) + 1
    place = (unit.ravel() * types + truth) * types + called
    counted = np.bincount(place, minlength=count * types * types)
    return counted.reshape(count, types, types).astype(np.float64)


def type_scores(confusion: Floats) -> tuple[Floats, Floats, Floats]:
    """F1, recall and precision (…, types) of confusions (…, types, types).

    F1 and recall are NaN of a type without rows; a precision without calls is NaN too.
    """
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, called = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(true > 0, 2 * hit / (true + called), np.nan)
        return f1, hit / true, hit / called


def macro_f1(confusion: Floats) -> Floats:
    """Mean F1 over the types that have rows: (…, types, types) → (…)."""
    f1, _, _ = type_scores(confusion)
    return np.asarray(np.nanmean(f1, axis=-1))


def calibration_error(
    probabilities: NDArray[np.floating[Any]], truth: NDArray[np.integer[Any]], bins: int = BINS
) -> float:
    """Expected calibration error of the most likely type (Naeini et al., AAAI 2015).

    Mean over bins of confidence, weighted by their rows, of |share right − mean confidence|.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == truth
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    off = np.bincount(place, right - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(off).sum() / max(len(truth), 1))


def scores(
    probabilities: NDArray[np.floating[Any]],
    truth: NDArray[np.integer[Any]],
    patients: NDArray[np.integer[Any]],
    names: Sequence[str],
    baseline: NDArray[np.integer[Any]] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of one method on one part.

    Args:
        probabilities: (n, types); the called type is the most likely.
        truth: (n,) codes.
        patients: (n,) number of each row's patient, which is what the bootstrap resamples.
        baseline: (n,) types that the morphology baseline calls on the same rows.

    Returns:
        macro_f1 with macro_f1_low and macro_f1_high, balanced_accuracy, ece, n, patients,
        per_type (f1, precision, recall, n); with a baseline also difference, difference_low and
        difference_high of macro-F1. Ends of intervals (95 %) are None with fewer than `MIN_UNITS`
        patients.
    """
    called = probabilities.argmax(1)
    confusion = confusions(truth, called, patients, len(names))
    total = confusion.sum(0)
    f1, recall, precision = type_scores(total)
    units = len(confusion)
    draws = _draws(units, seed)
    found: dict[str, Any] = {
        "macro_f1": float(macro_f1(total)),
        **_interval("macro_f1", _resampled(confusion, draws)),
        "balanced_accuracy": float(np.nanmean(recall)),
        "ece": calibration_error(probabilities, truth),
        "n": len(truth),
        "patients": units,
        "per_type": {
            name: {
                "f1": _number(f1[i]), "precision": _number(precision[i]),
                "recall": _number(recall[i]), "n": int(total[i].sum()),
            }
            for i, name in enumerate(names)
        },
    }  # fmt: skip
    if baseline is not None:
        other = confusions(truth, baseline, patients, len(names))
        apart = None
        if draws is not None:
            # The same patients for both: what they share cancels.
            ours, theirs = _resampled(confusion, draws), _resampled(other, draws)
            assert ours is not None and theirs is not None
            apart = ours - theirs
        found["difference"] = float(macro_f1(total) - macro_f1(other.sum(0)))
        found |= _interval("difference", apart)
    return found


def _draws(units: int, seed: int) -> Floats | None:
    """How often each patient is in each resample (resamples, units); None where they are few."""
    if units < MIN_UNITS:
        return None
    rng = np.random.default_rng(seed)
    return rng.multinomial(units, np.full(units, 1 / units), RESAMPLES).astype(np.float64)


def _resampled(confusion: Floats, draws: Floats | None) -> Floats | None:
    if draws is None:
        return None
    return macro_f1(np.einsum("ru,uij->rij", draws, confusion))


def _interval(name: str, values: Floats | None) -> dict[str, float | None]:
    if values is None:
        return {f"{name}_low": None, f"{name}_high": None}
    low, high = np.quantile(values, [0.025, 0.975])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
