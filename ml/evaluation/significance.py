"""Paired tests between predictors, tests of single genes, and correction for how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import norm, ttest_1samp

from ml.evaluation.bootstrap import MIN_UNITS, Draws
from ml.evaluation.metrics import Floats

LEVEL = 0.05
# Patients up to which all signs are tried: 2^14 of them.
EXACT_UP_TO = 14
RANDOM_SIGNS = 20_000


def sign_flip_p(differences: Floats, seed: int = 0) -> float:
    """Two-sided p of paired differences being symmetric about 0, by flipping their signs.

    All sign patterns are tried for up to `EXACT_UP_TO` differences, else a seeded sample of them.

    Args:
        differences: (patients,).
    """
    n = len(differences)
    if n == 0:
        return 1.0
    if n <= EXACT_UP_TO:
        signs = np.array(list(product((1.0, -1.0), repeat=n)))
    else:
        drawn = np.random.default_rng(seed).choice([1.0, -1.0], (RANDOM_SIGNS, n))
        signs = np.concatenate([np.ones((1, n)), drawn])
    means = np.abs(signs @ differences) / n
    # Sums of the same numbers in another order may differ in the last digit.
    return float((means >= means[0] * (1 - 1e-12)).mean())


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected so that the chance of any false finding stays at the level.

    Holm, Scand J Stat 1979;6:65.
    """
    order = np.argsort(p)
    stepped = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    found = np.empty(len(p))
    found[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return list(found.tolist())


def benjamini_hochberg(p: Floats) -> Floats:
    """q-values: the share of false findings among those up to each p; NaN stays NaN.

    Benjamini and Hochberg, J R Stat Soc B 1995;57:289.
    """
    q = np.full(len(p), np.nan)
    told = np.flatnonzero(np.isfinite(p))
    order = told[np.argsort(p[told])]
    stepped = p[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 1.0)
    return q


def by_patient(values: Floats, patients: Sequence[str]) -> Floats:
    """Means (patients, genes) of values (slides, genes) over each patient's slides."""
    names, of = np.unique(patients, return_inverse=True)
    there = np.isfinite(values)
    member = np.eye(len(names))[:, of]
    with np.errstate(invalid="ignore"):
        means: Floats = (member @ np.where(there, values, 0.0)) / (member @ there)
    return means


def gene_p(draws: Draws, patients: Sequence[str]) -> Floats:
    """Two-sided p of each gene's Pearson being 0: (genes,); NaN where it is not defined.

    With `MIN_UNITS` patients and more a t-test over the patients' means, else the estimate over
    its deviation in the bootstrap of spatial blocks, taken as normal.
    """
    if len(set(patients)) < MIN_UNITS:
        spread = draws.drawn.std(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(2 * norm.sf(np.abs(draws.found) / spread))
    means = by_patient(draws.slides, patients)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(ttest_1samp(means, 0.0, nan_policy="omit").pvalue, np.float64)


def compared(
    model: Draws, baselines: dict[str, Draws], patients: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The model against each baseline: difference of the medians over genes, p, and a verdict.

    Patients' medians of the genes' differences are tested by flipping signs; with fewer than
    `MIN_UNITS` patients the difference over its bootstrap deviation is taken as normal. p is
    corrected by `holm` over the baselines.

    Returns:
        name → difference, low, high (95 %), p, p_holm, test, verdict: ``ahead`` or ``behind`` where
        p_holm is below `LEVEL` and the interval lies on that side of 0, else ``cannot tell``.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, other in baselines.items():
        difference, low, high = model.minus(other)
        if len(set(patients)) >= MIN_UNITS:
            gaps = by_patient(model.slides - other.slides, patients)
            per_patient = np.array([np.median(row[np.isfinite(row)]) for row in gaps])
            p, test = sign_flip_p(per_patient), "sign flips over patients"
        else:
            spread = (high - low) / (2 * norm.ppf(0.975))
            p = float(2 * norm.sf(abs(difference) / spread)) if spread > 0 else 1.0
            test = "bootstrap over spatial blocks"
        found[name] = {
            "difference": difference, "low": low, "high": high, "p": p, "test": test,
        }  # fmt: skip
    for row, corrected in zip(found.values(), holm([r["p"] for r in found.values()]), strict=True):
        row["p_holm"] = corrected
        row["verdict"] = _verdict(row["low"], row["high"], corrected)
    return found


def _verdict(low: float, high: float, p: float) -> str:
    if p < LEVEL and low > 0:
        return "ahead"
    return "behind" if p < LEVEL and high < 0 else "cannot tell"


def smallest_p(patients: Sequence[str]) -> float | None:
    """The smallest p that flipping signs can give; None where blocks are drawn instead."""
    n = len(set(patients))
    return None if n < MIN_UNITS else float(2.0 ** (1 - n))
