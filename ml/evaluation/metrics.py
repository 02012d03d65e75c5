"""Agreement of predicted with measured expression, gene by gene.

A score that is not defined, as a correlation with a gene that a slide measures as a constant, is
NaN: it is counted apart and takes no part in any mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]

# Slides of fewer rows say nothing of a correlation.
LEAST_ROWS = 10
# Columns that are worked on at a time: float64 copies of 500,000 rows of them are 64 MB.
COLUMNS = 16
# Constants of the structural similarity of gene maps scaled by their maximum (Li et al., Nat
# Methods 2022;19:662).
SSIM_MEANS, SSIM_VARIANCES = 0.01, 0.03


def over_columns(work: Callable[[slice], None], columns: int) -> None:
    """Calls `work` for slices of `COLUMNS` columns, by threads: numpy works without the lock."""
    slices = [slice(i, min(i + COLUMNS, columns)) for i in range(0, columns, COLUMNS)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for _ in threads.map(work, slices):
            pass


def pearson(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Pearson correlation of predicted with measured columns.

    Args:
        x, y: (rows, genes), predicted and measured.

    Returns:
        (genes,) float64; 0 where the prediction is constant, since a constant predicts no order,
        NaN where what was measured is, or where a value is not a number.
    """
    a = x - x.mean(0, dtype=np.float64)
    b = y - y.mean(0, dtype=np.float64)
    norm_a, norm_b = np.sqrt((a * a).mean(0)), np.sqrt((b * b).mean(0))
    varies_a, varies_b = norm_a > _rounding(x), norm_b > _rounding(y)
    fine = varies_a & varies_b
    out = np.where(varies_b & np.isfinite(norm_a), 0.0, np.nan)
    out[fine] = np.clip((a * b).mean(0)[fine] / (norm_a[fine] * norm_b[fine]), -1.0, 1.0)
    return out


def _rounding(x: NDArray[Any]) -> Floats:
    """Deviations this small against the values are rounding, not variation: (genes,)."""
    return np.asarray(1e-6 * np.abs(x).max(0, initial=0) + 1e-12, np.float64)


def spearman(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Spearman correlation of columns (rows, genes) → (genes,), with the exceptions of `pearson`.

    A not-a-number among the values makes its gene's correlation one.
    """
    return pearson(rankdata(x, axis=0), rankdata(y, axis=0))


def relative_variation_distance(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """((var predicted − var measured) / var measured)² of each gene (Zhu et al., Stem, ICLR 2025).

    0 where a prediction varies as much as what was measured, 1 where it does not vary at all.

    Returns:
        (genes,) float64; NaN where what was measured is constant.
    """
    predicted, measured = np.var(x, 0, dtype=np.float64), np.var(y, 0, dtype=np.float64)
    fine = np.sqrt(measured) > _rounding(y)
    return np.where(fine, (predicted / np.where(fine, measured, 1.0) - 1.0) ** 2, np.nan)


def structural_similarity(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Structural similarity of each gene's map over a slide, both scaled by their own maximum.

    Over the whole slide at once, as benchmarks of spatial prediction compute it (Li et al., Nat
    Methods 2022;19:662): means, variances and covariance of the rows.

    Returns:
        (genes,) float64; NaN where what was measured is constant.
    """
    fine = np.sqrt(np.var(y, 0, dtype=np.float64)) > _rounding(y)
    a, b = (np.asarray(v, np.float64) / np.maximum(v.max(0), 1e-12) for v in (np.maximum(x, 0), y))
    mean_a, mean_b = a.mean(0), b.mean(0)
    var_a, var_b = a.var(0), b.var(0)
    joint = (a * b).mean(0) - mean_a * mean_b
    value = (2 * mean_a * mean_b + SSIM_MEANS) * (2 * joint + SSIM_VARIANCES)
    value /= (mean_a**2 + mean_b**2 + SSIM_MEANS) * (var_a + var_b + SSIM_VARIANCES)
    return np.where(fine, value, np.nan)


def defined_mean(values: Floats) -> Floats:
    """Mean over the first axis of the values that are defined; NaN where none is."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(there, values, 0.0).sum(0) / there.sum(0)
    return mean


def broken(x: NDArray[Any]) -> NDArray[np.bool_]:
    """Columns (genes,) in which a value is not a number: no slide of them is scored."""
    return np.asarray(~np.isfinite(x).all(0))


Measure = Callable[[NDArray[Any], NDArray[Any]], Floats]


def within_groups(
    x: NDArray[Any], y: NDArray[Any], groups: NDArray[Any], measure: Measure = pearson
) -> Floats:
    """A score of each gene within each group (slide), averaged over the groups that define it.

    Differences between slides (stain, tumour content) do not count, only where on a slide a gene
    is high. Groups of fewer than `LEAST_ROWS` rows say nothing and are left out.

    Args:
        x, y: (rows, genes), predicted and measured.
        measure: `pearson`, `spearman`, `relative_variation_distance` or `structural_similarity`.

    Returns:
        (genes,) float64; NaN where no group defines it, and where any prediction is no number.
    """
    rows = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    rows = [own for own in rows if len(own) >= LEAST_ROWS]
    found = np.full((len(rows), y.shape[1]), np.nan)

    def score(columns: slice) -> None:
        for place, own in enumerate(rows):
            found[place, columns] = measure(x[own, columns], y[own, columns])
        found[:, columns][:, broken(x[:, columns])] = np.nan

    over_columns(score, y.shape[1])
    return defined_mean(found)


def split_half_ceiling(
    counts: NDArray[Any], totals: Floats, groups: NDArray[Any], seed: int, splits: int = 5
) -> Floats:
    """Highest correlation that a noiseless predictor could reach, from splitting the counts.

    Each count is split by a fair binomial into halves, each half is scaled by its own share of the
    total; Spearman and Brown's formula takes the halves' correlation r to the reliability
    2r / (1 + r) of the whole, and a predictor that knew the truth would correlate with its root.

    Args:
        counts: (rows, genes) integers.
        totals: (rows,) counts that the rows are scaled by.
        groups: (rows,) slide of each row.

    Returns:
        (genes,) float64 in 0..1; 0 where a half is constant.
    """
    rng = np.random.default_rng(seed)
    half_total = np.maximum(totals / 2, 0.5)[:, None]
    agreement = np.zeros(counts.shape[1])
    for _ in range(splits):
        first = rng.binomial(counts.astype(np.int64), 0.5)
        halves = [np.log1p(part * 1e4 / half_total) for part in (first, counts - first)]
        agreement += np.nan_to_num(within_groups(halves[0], halves[1], groups)) / splits
    agreement = np.clip(agreement, 0.0, 1.0)
    return np.sqrt(2 * agreement / (1 + agreement))


def summary(pcc: Floats, name: str = "pcc") -> dict[str, Any]:
    """Median and quartiles of the genes' scores that are defined, as metric entries.

    Returns:
        NAME_median, NAME_q1, NAME_q3, None where no gene's score is defined; where some are not,
        their number as NAME_undefined.
    """
    told = pcc[np.isfinite(pcc)]
    ends = np.quantile(told, [0.25, 0.5, 0.75]).tolist() if len(told) else [None] * 3
    found = dict(zip((f"{name}_q1", f"{name}_median", f"{name}_q3"), ends, strict=True))
    return found | ({f"{name}_undefined": len(pcc) - len(told)} if len(told) < len(pcc) else {})
