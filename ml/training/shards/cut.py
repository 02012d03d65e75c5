"""From a cell table to the arrays of its shards."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ml.io.celltable import CellTable
from ml.tokens.rank import tokenise
from ml.tokens.vocabulary import Vocabulary
from ml.training.corpus import nearest
from ml.training.shards.layout import Settings

Arrays = dict[str, NDArray[Any]]
_CURVE_STEP_UM = 1.0


@dataclass(frozen=True)
class SlideCells:
    """Cells of a slide that have tokens, in the order of the corpus.

    Attributes:
        row: (n,) row of the cell table.
        xy_px: (n, 2) float32 level-0 pixels; `xy_um` the same in µm.
        starts, ids, counts: ragged tokens with the raw counts of their genes.
        neighbours, distances: (n, k) positions in this order (−1: none), and µm.
        panel: positions in the vocabulary of the genes measured, in order.
        left_out: rows of the table without a token.
        genes_left_out: genes of the table that the vocabulary does not have.
    """

    row: NDArray[np.uint32]
    xy_px: NDArray[np.float32]
    xy_um: NDArray[np.float32]
    starts: NDArray[np.int64]
    ids: NDArray[Any]
    counts: NDArray[np.uint32]
    neighbours: NDArray[np.int32]
    distances: NDArray[np.float32]
    panel: NDArray[np.int64]
    left_out: int
    genes_left_out: int

    def __len__(self) -> int:
        return len(self.row)


def read_cells(
    table: CellTable, mpp: float, vocabulary: Vocabulary, settings: Settings, where: str
) -> SlideCells:
    """Reads a table, drops rows without tokens, and orders the rest along a space-filling curve.

    Neighbours in space are then neighbours on the disk: gathering those of a block of cells
    touches few pages.

    Raises:
        InputError: ``genes.none_shared``.
    """
    columns, positions = vocabulary.align(table.symbols, where, table.gene_ids)
    counts = csr_matrix(table.counts()[:, columns])
    counts.eliminate_zeros()
    counts = csr_matrix(
        (counts.data, positions[counts.indices], counts.indptr),
        (counts.shape[0], len(vocabulary.symbols)),
    )
    kept = np.flatnonzero(np.diff(counts.indptr))
    xy_px = table.xy()
    kept = kept[np.argsort(_curve(xy_px[kept].astype(np.float64) * mpp), kind="stable")]
    xy_um = xy_px[kept].astype(np.float64) * mpp
    starts, ids, ranked = ranked_counts(csr_matrix(counts[kept]), vocabulary)
    neighbours, distances = nearest(xy_um, settings.neighbours, settings.radius_um)
    return SlideCells(
        kept.astype(np.uint32),
        xy_px[kept],
        xy_um.astype(np.float32),
        starts,
        ids,
        ranked,
        neighbours,
        distances,
        np.sort(positions),
        table.n_rows - len(kept),
        len(table.symbols) - len(positions),
    )


def ranked_counts(
    counts: csr_matrix, vocabulary: Vocabulary
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.uint32]]:
    """Ragged tokens of all genes that each cell expresses, and the raw counts of these genes.

    Returns:
        starts (cells + 1), token ids and counts, both by falling rank within a cell.
    """
    counts.sort_indices()
    genes = np.arange(counts.shape[1])
    tokens = tokenise(counts, genes, vocabulary, limit=max(counts.shape[1], 1))
    ranked = np.empty(counts.nnz, np.uint32)
    # Tokens of a cell sorted by gene stand in the order in which CSR holds the counts.
    ranked[np.lexsort((tokens.ids, np.repeat(np.arange(len(tokens)), tokens.lengths)))] = (
        counts.data
    )
    return tokens.indptr, tokens.ids, ranked


def bounds(cells: int, most: int) -> list[tuple[int, int]]:
    """Where to cut a slide into shards of at most `most` cells, all about the same size."""
    parts = -(-cells // most)
    edges = [cells * part // parts for part in range(parts)] + [cells] if parts else []
    return list(pairwise(edges))


def shard_arrays(cells: SlideCells, first: int, stop: int, vocabulary: Vocabulary) -> Arrays:
    """Arrays of the shard of cells [first, stop), with the halo that its neighbours need."""
    near = cells.neighbours[first:stop]
    halo = np.unique(near[(near >= 0) & ((near < first) | (near >= stop))])
    rows = np.concatenate([np.arange(first, stop), halo])
    local = np.where(
        (near >= first) & (near < stop), near - first, stop - first + np.searchsorted(halo, near)
    )
    lengths = np.diff(cells.starts)[rows]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    source = np.repeat(cells.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
    counts = cells.counts[source]
    return {
        "starts": starts.astype(np.uint32),
        "ids": cells.ids[source].astype(_smallest(len(vocabulary) - 1, at_least=2)),
        "counts": counts.astype(_smallest(int(counts.max(initial=0)))),
        "xy_um": cells.xy_um[rows],
        "row": cells.row[rows],
        "neighbours": np.where(near < 0, -1, local).astype(np.int32),
        "distances": cells.distances[first:stop],
    }


def _smallest(largest: int, at_least: int = 1) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned type, of `at_least` so many bytes, that holds this number."""
    for dtype in (np.uint8, np.uint16, np.uint32):
        if np.dtype(dtype).itemsize >= at_least and largest <= np.iinfo(dtype).max:
            return dtype
    raise OverflowError(f"{largest} does not fit 32 bits")


def _curve(xy_um: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Place of each position along a Z-order (Morton) curve with steps of a micron."""
    steps = (np.maximum(xy_um, 0) / _CURVE_STEP_UM).astype(np.uint64)
    return _spread(steps[:, 0]) | (_spread(steps[:, 1]) << np.uint64(1))


def _spread(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The lower 32 bits of each number with a zero between any two of them."""
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333), (1, 0x5555555555555555),
    ):  # fmt: skip
        bits = (bits | (bits << np.uint64(shift))) & np.uint64(mask)
    return bits
