"""Intervals of correlations by resampling patients, or spatial blocks where patients are few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import norm, t

from ml.evaluation.metrics import LEAST_ROWS, Floats, broken, defined_mean, over_columns, pearson

# Patients from which on a bootstrap over patients says something.
MIN_UNITS = 5
RESAMPLES = 1000


def blocks(xy_um: NDArray[Any], side_um: float) -> NDArray[np.int64]:
    """Number of the square block of the given side that each row lies in (0..k-1)."""
    cell = np.floor((xy_um - xy_um.min(0)) / side_um).astype(np.int64)
    _, number = np.unique(cell, axis=0, return_inverse=True)
    return number.ravel()


@dataclass(frozen=True)
class Draws:
    """Mean within-slide Pearson of each gene: as found, and over resamples.

    Attributes:
        found: (genes,) NaN where no slide defines it.
        drawn: (resamples, genes).
        tail: share of the draws beyond each end of a 95 % interval.
        slides: (slides, genes) of each slide; NaN where its gene is constant.
    """

    found: Floats
    drawn: Floats
    tail: float
    slides: Floats

    def interval(self) -> tuple[Floats, Floats]:
        """Ends (genes,) of the 95 % interval of each gene."""
        low, high = np.quantile(self.drawn, [self.tail, 1 - self.tail], axis=0)
        return low, high

    def median(self, genes: NDArray[np.bool_] | None = None) -> tuple[float, float, float]:
        """Median over (some) genes with the ends of its 95 % interval; NaN without a gene."""
        kept = self._kept(genes)
        if not kept.any():
            return (float("nan"),) * 3
        found = float(np.median(self.found[kept]))
        return (found, *_centred(found, np.median(self.drawn[:, kept], axis=1), self.tail))

    def minus(self, other: Draws) -> tuple[float, float, float]:
        """Difference of the medians over the genes that both define, with its 95 % interval.

        Both are drawn by the same `Resampling`, so that what they share cancels.
        """
        kept = self._kept() & other._kept()
        if not kept.any():
            return 0.0, 0.0, 0.0
        found = float(np.median(self.found[kept]) - np.median(other.found[kept]))
        drawn = np.median(self.drawn[:, kept], axis=1) - np.median(other.drawn[:, kept], axis=1)
        return (found, *_centred(found, drawn, self.tail))

    def _kept(self, genes: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        defined = np.isfinite(self.found)
        return defined if genes is None else defined & genes


def _centred(found: float, drawn: Floats, tail: float) -> tuple[float, float]:
    """Interval moved so that its mean is what was found.

    A slide of few blocks varies less when some of them are left out, and a median over genes of
    noisier correlations is lower: both would pull the interval away from its own estimate.
    """
    low, high = np.quantile(drawn + (found - drawn.mean()), [tail, 1 - tail])
    return float(low), float(high)


class Resampling:
    """Resamples that several predictors of the same rows are scored on.

    With `MIN_UNITS` patients and more, patients are drawn with all their slides: intervals speak of
    further patients. With fewer, spatial blocks are drawn within each slide, since neighbouring
    rows are alike: intervals speak of these slides alone.

    Args:
        groups: (rows,) number of each row's slide.
        block: (rows,) spatial block of each row within its slide.
        units: patient of each slide, by its number; None draws blocks.

    Attributes:
        slides: numbers of the slides that are scored, those with `LEAST_ROWS` rows and more.
        patients: patient of each of them; empty without `units`.
        of: what is drawn, ``patients`` or ``blocks``.
    """

    def __init__(
        self,
        groups: NDArray[Any],
        block: NDArray[np.int64],
        units: Sequence[str] | None = None,
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> None:
        rng = np.random.default_rng(seed)
        self._rows = {int(g): np.flatnonzero(groups == g) for g in np.unique(groups)}
        self.slides = [g for g, rows in self._rows.items() if len(rows) >= LEAST_ROWS]
        self.patients = [] if units is None else [units[g] for g in self.slides]
        self.of: Literal["patients", "blocks"] = "blocks"
        self._weights: Floats | None = None
        self._drawn: dict[int, NDArray[np.int64]] = {}
        self._block: dict[int, NDArray[np.int64]] = {}
        self.tail, self.resamples = 0.025, resamples
        if len(set(self.patients)) >= MIN_UNITS:
            self.of = "patients"
            self._weights, self.tail = resampled_patients(self.patients, resamples, rng)
            return
        for g in self.slides:
            _, local = np.unique(block[self._rows[g]], return_inverse=True)
            self._block[g] = local.ravel()
            count = int(local.max()) + 1
            self._drawn[g] = rng.multinomial(count, np.full(count, 1 / count), resamples)

    def pearson(self, predicted: NDArray[Any], measured: NDArray[Any]) -> Draws:
        """Correlations of a predictor (rows, genes) with what was measured (rows, genes)."""
        genes = measured.shape[1]
        found = np.full((len(self.slides), genes), np.nan)
        drawn = np.zeros((self.resamples, genes))
        if not self.slides:
            return Draws(np.full(genes, np.nan), drawn * np.nan, self.tail, found)

        def score(columns: slice) -> None:
            total, count = np.zeros((self.resamples, columns.stop - columns.start)), 0
            for place, g in enumerate(self.slides):
                rows = self._rows[g]
                x, y = (np.asarray(v[rows, columns], np.float64) for v in (predicted, measured))
                found[place, columns] = pearson(x, y)
                if self._weights is None:
                    draws = _block_draws(x, y, self._block[g], self._drawn[g])
                    defined = np.isfinite(found[place, columns])
                    total, count = total + np.where(defined, draws, 0.0), count + defined
            found[:, columns][:, broken(predicted[:, columns])] = np.nan
            if self._weights is None:
                with np.errstate(invalid="ignore"):
                    drawn[:, columns] = total / count

        over_columns(score, genes)
        if self._weights is not None:
            drawn = _weighted(self._weights, found)
        return Draws(defined_mean(found), drawn, self.tail, found)


def _weighted(weights: Floats, values: Floats) -> Floats:
    """Means (resamples, genes) of values (slides, genes) over the slides that define them."""
    there = np.isfinite(values)
    share = weights @ there
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ np.where(there, values, 0.0)) / share
    # A draw of none but patients without the gene says nothing; the estimate stands in for it.
    return np.where(share > 0, means, defined_mean(values))


def resampled_patients(
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


def _block_draws(
    x: Floats, y: Floats, block: NDArray[np.int64], drawn: NDArray[np.int64]
) -> Floats:
    """Pearson correlations (resamples, genes) of a slide's columns over drawn blocks."""
    count = drawn.shape[1]
    member = csr_matrix((np.ones(len(block)), (block, np.arange(len(block)))), (count, len(block)))
    x, y = x - x.mean(0), y - y.mean(0)
    n, weight = np.asarray(member.sum(1)).ravel(), drawn.astype(np.float64)
    sums = [weight @ (member @ term) for term in (x, y, x * x, y * y, x * y)]
    return _pearson_of_sums((weight @ n)[:, None], *sums)


def _pearson_of_sums(
    n: Floats, sx: Floats, sy: Floats, sxx: Floats, syy: Floats, sxy: Floats
) -> Floats:
    vx, vy = sxx - sx * sx / n, syy - sy * sy / n
    fine = (vx > 1e-9 * np.maximum(sxx, 1e-12)) & (vy > 1e-9 * np.maximum(syy, 1e-12))
    return np.where(fine, (sxy - sx * sy / n) / np.sqrt(np.where(fine, vx * vy, 1.0)), 0.0)
