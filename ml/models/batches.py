"""What the networks see of some rows: image inputs on one side, measurements on the other."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class FeatureBatch(NamedTuple):
    """Pooled features of n rows, of a frozen encoder that is run over whole tiles.

    Attributes:
        rows: (n, inputs) standardised.
        neighbours: features of the nearest rows (n, k, inputs).
        distance_um: (n, k).
        absent: (n, k) True where there is no such neighbour.
    """

    rows: Tensor
    neighbours: Tensor
    distance_um: Tensor
    absent: Tensor


class CropBatch(NamedTuple):
    """Two crops of each of n rows, centred on it.

    Attributes:
        context: (n, 224, 224, 3) uint8, 112 µm wide for cells.
        cell: (n, 112, 112, 3) uint8, 28 µm wide for cells.
    """

    context: Tensor
    cell: Tensor


class EmbeddedBatch(NamedTuple):
    """Image embeddings (n, dim) of rows, computed before; for training what lies behind them."""

    embeddings: Tensor


ImageBatch = FeatureBatch | CropBatch | EmbeddedBatch


class CellBatch(NamedTuple):
    """What is measured of n rows.

    Attributes:
        tokens: (n, L) rank tokens, padded with ``PAD``.
        neighbour_tokens: (n, k, M) of the nearest rows, likewise; k = 0 without neighbours.
        distance_um: (n, k) to the neighbours.
        absent: (n, k) True where there is no such neighbour.
        counts: (n, genes) float32 raw counts of the model's genes.
        totals: (n,) float32 counts that a row is scaled by.
        measured: (n, genes) bool, the genes that a row's panel has; None where all have all.
        xy_um: (n, 2) positions.
        slide: (n,) int64 number of the slide.
    """

    tokens: Tensor
    neighbour_tokens: Tensor
    distance_um: Tensor
    absent: Tensor
    counts: Tensor
    totals: Tensor
    measured: Tensor | None
    xy_um: Tensor
    slide: Tensor
