"""How far predictions are off: intervals from validation patients, and errors of what looks odd."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.models.intervals import LEVEL, Intervals
from ml.models.past import PAST
from ml.training.corpus import Corpus
from ml.training.trust import described

# Shares of the test rows that are dropped, those furthest from the training rows first.
DROPPED = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def fit_intervals(
    model: PAST, held_out: dict[str, Corpus], level: float = LEVEL
) -> dict[str, Any] | None:
    """Give a trained model intervals from its validation part, and say what they cover of others.

    Returns:
        level, unit, half_width by gene, calibrated_on, patients, and coverage of each other part:
        overall (the mean over patients), by_patient, and the 5 % and 95 % quantiles over genes.
        None without a validation part.
    """
    from ml.io.layers import UNIT

    validation = held_out.get("validation")
    if validation is None:
        return None
    found = Intervals.fit(
        validation.all_expression(), validation.predict(model), patients_of(validation), level
    )
    model.intervals = found.to(model.feature_mean.device)
    symbols = model.config.vocabulary.symbols
    return {
        "level": level,
        "unit": UNIT,
        "half_width": dict(zip(symbols, found.half_width.tolist(), strict=True)),
        "coverage": {
            part: coverage(found, corpus.all_expression(), corpus.predict(model), corpus)
            for part, corpus in held_out.items()
            if part != "validation"
        },
        "calibrated_on": "validation",
        "patients": int(found.patients),
    }


def coverage(
    intervals: Intervals,
    measured: NDArray[np.float32],
    predicted: NDArray[np.float32],
    corpus: Corpus,
) -> dict[str, Any]:
    """Share of values (measured rows, genes) in their interval, every patient the same weight."""
    within, patients = intervals.covered(measured, predicted), patients_of(corpus)
    names = patient_names(corpus)
    each = {names[p]: within[patients == p].mean(0) for p in np.unique(patients).tolist()}
    per_gene = np.mean(list(each.values()), axis=0)
    low, high = np.quantile(per_gene, [0.05, 0.95])
    return {
        "overall": float(per_gene.mean()),
        "by_patient": {name: float(share.mean()) for name, share in each.items()},
        "per_gene_q05": float(low),
        "per_gene_q95": float(high),
    }


def error_by_distance(model: PAST, corpus: Corpus) -> dict[str, Any] | None:
    """Root mean squared error of rows beyond the density's threshold, of those within it, and of
    what is left when the furthest rows are dropped; None for a model without a density."""
    if model.density is None or not len(corpus.measured):
        return None
    distance = model.density.distance(described(model, corpus, corpus.measured)).cpu().numpy()
    difference = corpus.predict(model) - corpus.all_expression()
    squared = np.square(difference, dtype=np.float64).mean(1)
    beyond = distance > float(model.density.threshold)
    near_first = squared[np.argsort(distance, kind="stable")]
    return {
        "beyond": _error(squared[beyond]),
        "within": _error(squared[~beyond]),
        "dropped": [
            {"share": share, **_error(near_first[: len(squared) - int(share * len(squared))])}
            for share in DROPPED
        ],
    }


def _error(squared: NDArray[np.float64]) -> dict[str, Any]:
    return {"n": len(squared), "rmse": float(np.sqrt(squared.mean())) if len(squared) else None}


def patient_names(corpus: Corpus) -> list[str]:
    """The patients of a corpus, in the order of their numbers."""
    return sorted({section.patient for section in corpus.sections})


def patients_of(corpus: Corpus) -> NDArray[np.int64]:
    """Number of the patient of each measured row."""
    names = patient_names(corpus)
    number = np.array([names.index(section.patient) for section in corpus.sections], np.int64)
    return np.asarray(number[corpus.section[corpus.measured]])
