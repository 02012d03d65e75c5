"""Ridge regression from sums over rows, so that any number of rows fits in memory.

The penalty is chosen by leaving out whole slides (or patients), never single rows: neighbouring
rows are alike, and a penalty chosen on them is too small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass
class Sums:
    """Sums over rows that a ridge is solved from.

    Attributes:
        rows: number of rows.
        x, y: (inputs,), (outputs,) sums.
        xx, xy: (inputs, inputs), (inputs, outputs) sums of products.
        yy: (outputs,) sums of squares.
    """

    rows: int
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats

    @classmethod
    def over(cls, blocks: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> Sums:
        """Sums over blocks of rows (k, inputs), (k, outputs)."""
        total: Sums | None = None
        for x, y in blocks:
            a, b = x.astype(np.float64), y.astype(np.float64)
            part = cls(len(a), a.sum(0), b.sum(0), a.T @ a, a.T @ b, (b * b).sum(0))
            total = part if total is None else total + part
        if total is None:
            raise ValueError("no rows")
        return total

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.rows + other.rows,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )


@dataclass(frozen=True)
class Ridge:
    """y ≈ intercept + x @ weights."""

    weights: Floats
    intercept: Floats

    def predict(self, x: NDArray[Any]) -> Floats:
        """(rows, inputs) → (rows, outputs)."""
        return x.astype(np.float64) @ self.weights + self.intercept


class Solver:
    """Ridge solutions of one training part for any penalty, after one decomposition.

    Inputs are to be standardised beforehand; the penalty is per input and row, so that the same
    number means the same shrinkage for 20 inputs and for 2,000, for 500 rows and for 500,000.

    Args:
        sums: of the training part.
    """

    def __init__(self, sums: Sums) -> None:
        n = sums.rows
        self.mean, self.y_mean = sums.x / n, sums.y / n
        values, vectors = np.linalg.eigh(sums.xx / n - np.outer(self.mean, self.mean))
        self.values, self.vectors = np.maximum(values, 0), vectors
        self.cross = vectors.T @ (sums.xy / n - np.outer(self.mean, self.y_mean))

    def ridge(self, penalty: float, components: int | None = None) -> Ridge:
        """The solution for one penalty, in units of the variance of an input.

        Args:
            components: use only this many principal components of the inputs; None for all.
        """
        kept = slice(None) if components is None else slice(-components, None)
        shrink = self.values[kept] + penalty
        weights = self.vectors[:, kept] @ (self.cross[kept] / shrink[:, None])
        return Ridge(weights, self.y_mean - self.mean @ weights)


def scores(ridge: Ridge, sums: Sums) -> Floats:
    """Pearson of each output over the rows of `sums`, from the sums alone; 0 where constant."""
    n, w = sums.rows, ridge.weights
    mean = sums.x / n
    covariance = sums.xx / n - np.outer(mean, mean)
    predicted = np.einsum("io,io->o", w, covariance @ w)
    measured = sums.yy / n - (sums.y / n) ** 2
    joint = np.einsum("io,io->o", w, sums.xy / n - np.outer(mean, sums.y / n))
    fine = (predicted > 1e-12) & (measured > 1e-12)
    return np.where(fine, joint / np.sqrt(np.where(fine, predicted * measured, 1.0)), 0.0)


@dataclass(frozen=True)
class Choice:
    """What leaving parts out found best.

    Attributes:
        penalty: of the ridge.
        components: principal components of the inputs; None for all.
        pcc: median Pearson on the left-out parts; not a number where nothing could be left out.
    """

    penalty: float
    components: int | None
    pcc: float


def choose(
    parts: Sequence[Sums],
    *,
    components: Sequence[int | None] = (None,),
    penalties: Sequence[float] = PENALTIES,
) -> Choice:
    """The penalty and number of components with the highest Pearson on parts left out in turn.

    Args:
        parts: sums of each slide or patient. A single part cannot be left out; then the middle
            penalty is taken, and the last number of components.
    """
    if len(parts) < 2 or len(penalties) * len(components) == 1:
        return Choice(penalties[len(penalties) // 2], components[-1], float("nan"))
    total = sum(parts[1:], parts[0])
    reached = np.zeros((len(components), len(penalties)))
    for part in parts:
        solver = Solver(minus(total, part))
        for i, count in enumerate(components):
            reached[i] += [
                float(np.median(scores(solver.ridge(p, count), part))) for p in penalties
            ]
    i, j = (int(k) for k in np.unravel_index(int(np.argmax(reached)), reached.shape))
    return Choice(penalties[j], components[i], float(reached[i, j] / len(parts)))


def minus(total: Sums, part: Sums) -> Sums:
    """Sums of the rows of `total` that are not among those of `part`."""
    return Sums(
        total.rows - part.rows,
        total.x - part.x,
        total.y - part.y,
        total.xx - part.xx,
        total.xy - part.xy,
        total.yy - part.yy,
    )
