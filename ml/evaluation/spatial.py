"""Which genes have a spatial pattern, and parts of a slide that lie apart from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from scipy.stats import norm

from ml.errors import InputError
from ml.evaluation.bootstrap import blocks
from ml.evaluation.metrics import LEAST_ROWS, Floats, defined_mean, over_columns
from ml.evaluation.significance import benjamini_hochberg
from ml.training.corpus import Corpus

NEIGHBOURS = 8
# A gene is called spatially variable from this mean Moran's I on; with tens of thousands of cells
# far weaker patterns are significant.
LEAST_MORAN, LEVEL = 0.05, 0.01


def moran(values: NDArray[Any], xy_um: NDArray[Any], neighbours: int = NEIGHBOURS) -> Floats:
    """Moran's I of each gene on one slide (Moran, Biometrika 1950;37:17).

    Weights are 1 / k for each of a row's k nearest other rows.

    Args:
        values: (rows, genes).
        xy_um: (rows, 2).

    Returns:
        (genes,) about −1..1; NaN for genes that are constant.
    """
    weights = _weights(xy_um, neighbours)
    found = np.full(values.shape[1], np.nan)

    def one(columns: slice) -> None:
        z = np.asarray(values[:, columns], np.float64)
        z = z - z.mean(0)
        total = (z * z).sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[columns] = np.where(total > 1e-12, (z * (weights @ z)).sum(0) / total, np.nan)

    over_columns(one, values.shape[1])
    return found


def moran_p(values: Floats, xy_um: NDArray[Any], neighbours: int = NEIGHBOURS) -> Floats:
    """One-sided p of Moran's I (genes,) being that of rows without a pattern, taken as normal.

    Mean and variance are those under normality (Cliff and Ord, Spatial Processes, 1981).
    """
    weights = _weights(xy_um, neighbours)
    n, total = len(xy_um), weights.sum()
    both = weights + weights.T
    s1 = 0.5 * both.multiply(both).sum()
    s2 = float(
        np.square(np.asarray(weights.sum(1)).ravel() + np.asarray(weights.sum(0)).ravel()).sum()
    )
    mean = -1.0 / (n - 1)
    square = (n * n * s1 - n * s2 + 3 * total * total) / ((n * n - 1) * total * total)
    return np.asarray(norm.sf((values - mean) / np.sqrt(square - mean * mean)))


def _weights(xy_um: NDArray[Any], neighbours: int) -> csr_matrix:
    n, k = len(xy_um), min(neighbours, len(xy_um) - 1)
    _, near = cKDTree(xy_um).query(xy_um, k=k + 1)
    # The row itself is among its nearest; where rows coincide it need not be the first.
    own = near == np.arange(n)[:, None]
    own[~own.any(1), -1] = True
    near = near[~own].reshape(n, k)
    rows = np.repeat(np.arange(n), k)
    return csr_matrix((np.full(n * k, 1.0 / k), (rows, near.ravel())), (n, n))


@dataclass(frozen=True)
class SpatialGenes:
    """Genes with a spatial pattern on the training slides.

    Attributes:
        chosen: (genes,) which they are.
        moran: (genes,) mean Moran's I over the slides.
    """

    chosen: NDArray[np.bool_]
    moran: Floats


def spatially_variable(train: Corpus) -> SpatialGenes:
    """Genes whose mean Moran's I over the training slides is `LEAST_MORAN` and more.

    It must also be above chance on most slides (q < `LEVEL` on each).
    """
    section = train.section[train.measured]
    found, above = [], []
    for number in np.unique(section):
        rows = train.measured[section == number]
        if len(rows) <= max(LEAST_ROWS, NEIGHBOURS):
            continue
        xy = train.xy_um[rows]
        value = moran(train.expression(rows), xy)
        found.append(value)
        with np.errstate(invalid="ignore"):
            above.append(benjamini_hochberg(moran_p(value, xy)) < LEVEL)
    genes = train.counts.shape[1]
    if not found:
        return SpatialGenes(np.zeros(genes, bool), np.full(genes, np.nan))
    mean = defined_mean(np.stack(found))
    with np.errstate(invalid="ignore"):
        chosen = (mean >= LEAST_MORAN) & (np.mean(above, axis=0) > 0.5)
    return SpatialGenes(chosen, mean)


@dataclass(frozen=True)
class BlockFolds:
    """A slide in spatial blocks, each of which is held out in one fold.

    Attributes:
        fold: (rows,) the fold that holds out a row.
        xy_um: (rows, 2).
        gap_um: rows nearer than this to a held-out block take no part in its fold.
        side_um: of the blocks.
    """

    fold: NDArray[np.int64]
    xy_um: NDArray[np.float64]
    gap_um: float
    side_um: float

    def parts(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows to train on and rows to test on, at least `gap_um` apart along one axis."""
        test = np.flatnonzero(self.fold == number)
        rest = np.flatnonzero(self.fold != number)
        distance, _ = cKDTree(self.xy_um[test]).query(self.xy_um[rest], p=np.inf)
        return rest[distance >= self.gap_um], test


def block_folds(
    xy_um: NDArray[Any], side_um: float, gap_um: float, folds: int, seed: int = 0
) -> BlockFolds:
    """Square blocks of a slide dealt to folds by a seed.

    Args:
        gap_um: at least the width of what a model sees around a row, so that no crop of a training
            row overlaps one of a test row.

    Raises:
        InputError: ``split.too_few_blocks``.
    """
    block = blocks(np.asarray(xy_um, np.float64), side_um)
    count = int(block.max()) + 1
    if count < folds:
        raise InputError(
            "split.too_few_blocks",
            "spatial blocks",
            f"The slide has {count} blocks of {side_um:g} µm for {folds} folds.",
            "Use smaller blocks or fewer folds.",
        )
    order = np.random.default_rng(seed).permutation(count)
    return BlockFolds(order[block] % folds, np.asarray(xy_um, np.float64), gap_um, side_um)


def audit_overlap(
    train_xy_um: NDArray[Any], test_xy_um: NDArray[Any], crop_um: float, where: str
) -> float:
    """Check that no crop of a training row overlaps one of a test row of the same slide.

    Args:
        crop_um: side of the widest square that is seen around a row.

    Returns:
        the smallest distance in µm between rows of both parts (largest of both axes, since crops
        are squares).

    Raises:
        InputError: ``split.crops_overlap``.
    """
    distance, _ = cKDTree(train_xy_um).query(test_xy_um, p=np.inf)
    nearest = float(distance.min())
    if nearest < crop_um:
        raise InputError(
            "split.crops_overlap",
            where,
            f"{int((distance < crop_um).sum())} rows of the test part lie within {crop_um:g} µm of "
            f"a training row (the nearest at {nearest:.0f} µm): their crops show the same tissue.",
            f"Leave a gap of {crop_um:g} µm between the parts.",
        )
    return nearest
