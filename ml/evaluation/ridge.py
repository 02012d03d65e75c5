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
            self.rows + other.rows, self.x + other.x, self.y + other.y, self.xx + other.xx,
            self.xy + other.xy, self.yy + other.yy,
        )

    def columns(self, chosen: NDArray[np.int64]) -> Sums:
        """The same with some of the inputs only."""
        return Sums(
            self.rows, self.x[chosen], self.y, self.xx[np.ix_(chosen, chosen)],
            self.xy[chosen], self.yy,
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

    Inputs are standardised; the penalty is per input and row, so that the same number means the
    same shrinkage for 20 inputs and for 2,000, for 500 rows and for 500,000.

    Args:
        sums: of the training part.
        components: use only this many principal components of the inputs.
    """

    def __init__(self, sums: Sums, components: int | None = None) -> None:
        n = sums.rows
        self.mean, self.y_mean = sums.x / n, sums.y / n
        covariance = sums.xx / n - np.outer(self.mean, self.mean)
        self.scale = np.sqrt(np.maximum(np.diag(covariance), 0))
        self.scale[self.scale < 1e-4] = np.inf
        correlation = covariance / np.outer(self.scale, self.scale)
        values, vectors = np.linalg.eigh(correlation)
        if components is not None:
            values, vectors = values[-components:], vectors[:, -components:]
        self.values, self.vectors = np.maximum(values, 0), vectors
        cross = (sums.xy / n - np.outer(self.mean, self.y_mean)) / self.scale[:, None]
        self.cross = vectors.T @ cross

    def ridge(self, penalty: float) -> Ridge:
        """The solution for one penalty: multiples of the mean eigenvalue of the inputs."""
        shrink = self.values + penalty
        scaled = self.vectors @ (self.cross / shrink[:, None])
        weights = scaled / self.scale[:, None]
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


def choose_penalty(
    parts: Sequence[Sums], *, components: int | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[float, float]:
    """The penalty with the highest median Pearson on parts left out in turn, and that Pearson.

    Args:
        parts: sums of each slide or patient. A single part cannot be left out; then the middle
            penalty is taken, and the Pearson is not a number.
    """
    if len(parts) < 2:
        return penalties[len(penalties) // 2], float("nan")
    total = sum(parts[1:], parts[0])
    reached = np.zeros(len(penalties))
    for part in parts:
        solver = Solver(_minus(total, part), components)
        reached += [float(np.median(scores(solver.ridge(p), part))) for p in penalties]
    best = int(np.argmax(reached))
    return penalties[best], float(reached[best] / len(parts))


def fit_ridge(
    parts: Sequence[Sums], *, components: int | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[Ridge, float]:
    """Ridge on all parts with the penalty chosen by leaving parts out; and that penalty."""
    penalty, _ = choose_penalty(parts, components=components, penalties=penalties)
    return Solver(sum(parts[1:], parts[0]), components).ridge(penalty), penalty


def _minus(total: Sums, part: Sums) -> Sums:
    return Sums(
        total.rows - part.rows, total.x - part.x, total.y - part.y, total.xx - part.xx,
        total.xy - part.xy, total.yy - part.yy,
    )
