"""Harrell's concordance index with entry times, and its bootstrap interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % percentile bootstrap interval over patients."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Pairs:
    """Comparable pairs: (e, n) with a row per patient `first` (e,) who had the event.

    True where the column's patient was at risk at that event and outlived it: Harrell's pairs. With
    folds only patients of one fold make a pair, since scores of different models do not compare.
    """

    first: npt.NDArray[np.intp]
    comparable: npt.NDArray[np.float32]

    @classmethod
    def of(
        cls,
        time: Floats,
        event: npt.NDArray[np.bool_],
        entry: Floats,
        fold: npt.NDArray[np.int64] | None = None,
    ) -> Pairs:
        first = np.flatnonzero(event)
        at = time[first, None]
        later = (time > at) | ((time == at) & ~event)
        later &= (entry < at) | (entry == 0)
        if fold is not None:
            later &= fold == fold[first, None]
        return cls(first, later.astype(np.float32))

    def credit(self, score: Floats) -> npt.NDArray[np.float32]:
        """(e, n): 1 for a comparable pair whose earlier event has the higher score, ½ for a tie."""
        gap = score[self.first, None] - score
        return np.asarray(self.comparable * (0.5 * (np.sign(gap) + 1)), np.float32)


def concordance(pairs: Pairs, score: Floats) -> float:
    """Harrell's C: higher score, earlier event. NaN where no pair is comparable."""
    total = float(pairs.comparable.sum(dtype=np.float64))
    return float(pairs.credit(score).sum(dtype=np.float64)) / total if total else float("nan")


def bootstrap(
    pairs: Pairs, scores: dict[str, Floats], n_patients: int, seed: int, rounds: int = 1000
) -> dict[str, Floats]:
    """Concordance of each score under the same `rounds` resamplings of patients (rounds,)."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=rounds)
    weight = weights.astype(np.float32).T  # (n, rounds)
    first = weight[pairs.first]
    total = (first * (pairs.comparable @ weight)).sum(0, dtype=np.float64)
    return {
        name: np.asarray(
            (first * (pairs.credit(score) @ weight)).sum(0, dtype=np.float64) / total, np.float64
        )
        for name, score in scores.items()
    }


def interval(value: float, draws: Floats) -> Interval:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))
