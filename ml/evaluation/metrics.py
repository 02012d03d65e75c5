"""Agreement of predicted with measured expression, gene by gene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import norm, rankdata, t

Floats = NDArray[np.float64]

# Patients from which on a bootstrap over patients says something.
MIN_UNITS = 5


def pearson(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Pearson correlation of each column.

    Args:
        x, y: (rows, genes).

    Returns:
        (genes,) float64; 0 where either column is constant, since a constant predicts no order.
    """
    a = x - x.mean(0, dtype=np.float64)
    b = y - y.mean(0, dtype=np.float64)
    # Deviations this small against the values are rounding, not variation.
    floor_a = 1e-6 * np.abs(x).max(0, initial=0) + 1e-12
    floor_b = 1e-6 * np.abs(y).max(0, initial=0) + 1e-12
    norm_a, norm_b = np.sqrt((a * a).mean(0)), np.sqrt((b * b).mean(0))
    fine = (norm_a > floor_a) & (norm_b > floor_b)
    covariance = (a * b).mean(0)
    out = np.zeros(x.shape[1])
    out[fine] = covariance[fine] / (norm_a[fine] * norm_b[fine])
    return np.clip(out, -1.0, 1.0)


def spearman(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Spearman correlation of each column (rows, genes) → (genes,); 0 for constant columns."""
    return pearson(rankdata(x, axis=0), rankdata(y, axis=0))


def within_groups(
    x: NDArray[Any], y: NDArray[Any], groups: NDArray[Any], *, ranks: bool = False
) -> Floats:
    """Correlation of each gene within each group (slide), averaged over the groups.

    Differences between slides (stain, tumour content) do not count, only where on a slide a gene
    is high. Groups of fewer than 10 rows say nothing and are left out.

    Returns:
        (genes,) float64.
    """
    measure = spearman if ranks else pearson
    per_group = [
        measure(x[groups == g], y[groups == g])
        for g in np.unique(groups)
        if np.count_nonzero(groups == g) >= 10
    ]
    return np.mean(per_group, axis=0) if per_group else np.zeros(x.shape[1])


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
        (genes,) float64 in 0..1.
    """
    rng = np.random.default_rng(seed)
    half_total = np.maximum(totals / 2, 0.5)[:, None]
    agreement = np.zeros(counts.shape[1])
    for _ in range(splits):
        first = rng.binomial(counts.astype(np.int64), 0.5)
        halves = [np.log1p(part * 1e4 / half_total) for part in (first, counts - first)]
        agreement += within_groups(halves[0], halves[1], groups) / splits
    agreement = np.clip(agreement, 0.0, 1.0)
    return np.sqrt(2 * agreement / (1 + agreement))


def blocks(xy_um: NDArray[Any], side_um: float) -> NDArray[np.int64]:
    """Number of the square block of the given side that each row lies in (0..k-1)."""
    cell = np.floor((xy_um - xy_um.min(0)) / side_um).astype(np.int64)
    _, number = np.unique(cell, axis=0, return_inverse=True)
    return number.ravel()


def _moments(x: Floats, y: Floats, block: NDArray[np.int64]) -> Floats:
    """Sums over each block of 1, x, y, x², y², xy: (6, blocks, genes)."""
    count = int(block.max()) + 1
    member = csr_matrix((np.ones(len(block)), (block, np.arange(len(block)))), (count, len(block)))
    terms = (np.ones_like(x), x, y, x * x, y * y, x * y)
    return np.stack([member @ term for term in terms])


def _pearson_of_moments(sums: Floats) -> Floats:
    n, sx, sy, sxx, syy, sxy = sums
    vx, vy = sxx - sx * sx / n, syy - sy * sy / n
    fine = (vx > 1e-9 * np.maximum(sxx, 1e-12)) & (vy > 1e-9 * np.maximum(syy, 1e-12))
    return np.where(fine, (sxy - sx * sy / n) / np.sqrt(np.where(fine, vx * vy, 1.0)), 0.0)


def paired_difference(
    measured: NDArray[Any],
    first: NDArray[Any],
    second: NDArray[Any],
    groups: NDArray[Any],
    block: NDArray[np.int64],
    units: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[float, float, float]:
    """Median over genes of the Pearson of `first` minus that of `second`, with a 95 % interval.

    What is resampled is as in `gene_intervals`, and the same for both predictors: patients, or
    spatial blocks within each slide, since neighbouring rows are alike. A slide of few blocks
    varies less when some of them are left out, which lowers both correlations: the interval of
    blocks is moved so that its mean is the difference found.

    Args:
        measured, first, second: (rows, genes).
        groups: (rows,) slide of each row.
        block: (rows,) spatial block of each row within its slide.
        units: patient of each slide, by its number; None resamples blocks.

    Returns:
        difference of the medians, and the ends of the interval. Slides of fewer than 10 rows are
        left out; with none left all three are 0.
    """
    rng = np.random.default_rng(seed)
    slides = [g for g in np.unique(groups) if np.count_nonzero(groups == g) >= 10]
    if not slides:
        return 0.0, 0.0, 0.0
    pcc = np.stack(
        [
            [pearson(x[rows], measured[rows]) for x in (first, second)]
            for rows in (groups == g for g in slides)
        ]
    )
    found = _median_gap(pcc.mean(0))
    patients = None if units is None else [units[g] for g in slides]
    if patients is not None and len(set(patients)) >= MIN_UNITS:
        weights, tail = _resampled_patients(patients, resamples, rng)
        draws = _median_gap(np.tensordot(weights, pcc, 1))
        low, high = np.quantile(draws, [tail, 1 - tail])
        return float(found), float(low), float(high)
    every = np.zeros((resamples, 2, measured.shape[1]))
    for g in slides:
        rows = groups == g
        drawn = _drawn_blocks(block[rows], resamples, rng)
        for which, x in enumerate((first, second)):
            every[:, which] += _block_draws(x[rows], measured[rows], block[rows], drawn)
    draws = _median_gap(every / len(slides))
    low, high = np.quantile(draws + (found - draws.mean()), [0.025, 0.975])
    return float(found), float(low), float(high)


def _median_gap(pcc: Floats) -> Floats:
    """Difference of the medians over genes: (..., 2, genes) → (...)."""
    medians = np.median(pcc, axis=-1)
    return np.asarray(medians[..., 0] - medians[..., 1])


def _resampled_patients(
    patients: Sequence[str], resamples: int, rng: np.random.Generator
) -> tuple[Floats, float]:
    """Weights (resamples, slides) of patients drawn with all their slides, and the tail's share.

    The tail is widened as few patients ask for (Hesterberg's expanded percentile interval, Am Stat
    2015;69:371).
    """
    names, of = np.unique(patients, return_inverse=True)
    count = len(names)
    weights = rng.multinomial(count, np.full(count, 1 / count), resamples)[:, of].astype(float)
    tail = float(norm.cdf(t.ppf(0.025, count - 1) * np.sqrt(count / (count - 1))))
    return weights / weights.sum(1, keepdims=True), tail


def _drawn_blocks(
    block: NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """How often each block of a slide is drawn: (resamples, blocks)."""
    count = len(np.unique(block))
    return rng.multinomial(count, np.full(count, 1 / count), resamples)


def _block_draws(
    x: NDArray[Any], y: NDArray[Any], block: NDArray[np.int64], drawn: NDArray[np.int64]
) -> Floats:
    """Pearson correlations (resamples, genes) of a slide's columns over drawn blocks."""
    _, local = np.unique(block, return_inverse=True)
    centred_x, centred_y = (np.asarray(v - v.mean(0), np.float64) for v in (x, y))
    sums = _moments(centred_x, centred_y, local.ravel())
    return _pearson_of_moments(np.tensordot(sums, drawn, (1, 1)).swapaxes(1, 2))


def gene_intervals(
    predicted: NDArray[Any],
    measured: NDArray[Any],
    groups: NDArray[Any],
    block: NDArray[np.int64],
    units: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[Floats, Floats]:
    """95 % interval of each gene's mean within-slide Pearson, by bootstrap.

    With `MIN_UNITS` patients and more, patients are resampled with all their slides: the interval
    is one for further patients (see `_resampled_patients`). With fewer it resamples spatial blocks
    within each slide, and speaks of these slides alone.

    Args:
        predicted, measured: (rows, genes).
        groups: (rows,) number of each row's slide.
        block: (rows,) spatial block of each row within its slide.
        units: patient of each slide, by its number.

    Returns:
        lower and upper ends, each (genes,). Slides of fewer than 10 rows are left out.
    """
    rng = np.random.default_rng(seed)
    slides = [g for g in np.unique(groups) if np.count_nonzero(groups == g) >= 10]
    if not slides:
        return np.zeros(predicted.shape[1]), np.zeros(predicted.shape[1])
    patients, tail = [units[g] for g in slides], 0.025
    if len(set(patients)) >= MIN_UNITS:
        pcc = np.stack([pearson(predicted[groups == g], measured[groups == g]) for g in slides])
        weights, tail = _resampled_patients(patients, resamples, rng)
        draws = weights @ pcc
    else:
        draws = np.zeros((resamples, predicted.shape[1]))
        for g in slides:
            rows = groups == g
            drawn = _drawn_blocks(block[rows], resamples, rng)
            draws += _block_draws(predicted[rows], measured[rows], block[rows], drawn)
        draws /= len(slides)
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return low, high


def summary(pcc: Floats) -> dict[str, float]:
    """Median and quartiles of per-gene correlations, as metric entries."""
    q1, median, q3 = np.quantile(pcc, [0.25, 0.5, 0.75]) if len(pcc) else (0.0, 0.0, 0.0)
    return {"pcc_median": float(median), "pcc_q1": float(q1), "pcc_q3": float(q3)}
