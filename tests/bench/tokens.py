"""Rank-value tokens of a Xenium-like matrix, against loops over its cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from tests.bench.registry import Row, benchmark

CELLS, COLUMNS, GENES, CONTEXT = 500_000, 400, 20_310, 297
LOOPED = 2_000


@benchmark("tokeniser")
def tokeniser(folder: Path) -> Iterator[Row]:
    """Cells/s on two threads, from columns of the panel to ragged ids of a 20,310-gene vocabulary.

    The ratio is against one cell at a time in NumPy as the recipe is written: align to the
    vocabulary, scale, divide, sort. `tokeniser_lean_loop` is a loop that touches only the cell's
    own entries, for the record.
    """
    from ml.tokens.rank import tokenise
    from ml.tokens.vocabulary import Vocabulary

    rng = np.random.default_rng(0)
    counts = panel_counts(rng)
    means = rng.uniform(40, 900, GENES)
    genes = rng.choice(GENES, COLUMNS, replace=False)
    vocabulary = Vocabulary(tuple(f"G{i}" for i in range(GENES)), means)
    tokens = tokenise(counts, genes, vocabulary, CONTEXT, 2)
    rate = CELLS / _median_s(lambda: tokenise(counts, genes, vocabulary, CONTEXT, 2), 5)
    some = csr_matrix(counts[:LOOPED], dtype=np.float64)
    written = LOOPED / _median_s(lambda: list(as_written(some, genes, means)), 1)
    lean = LOOPED / _median_s(lambda: list(entries_only(some, genes, means)), 1)
    for loop in (as_written, entries_only):
        ids = np.concatenate(list(loop(some, genes, means)))
        assert np.array_equal(tokens.ids[: len(ids)], ids)
    yield Row("tokeniser_rate", rate, "cells/s", written, rate / written)
    yield Row("tokeniser_ratio", rate / written, "x")
    yield Row("tokeniser_lean_loop", lean, "cells/s")
    padded = CELLS / _median_s(lambda: tokens.padded(300, (4, 9, 5)), 3)
    yield Row("tokeniser_padded", padded, "cells/s")


def panel_counts(rng: np.random.Generator) -> csr_matrix:
    """(cells, columns) uint32, about 60 genes a cell: uneven genes, uneven cells."""
    share = rng.gamma(0.5, 1, COLUMNS)
    share /= share.sum()
    blocks = []
    for _ in range(10):
        depth = rng.gamma(3, 85 / 3, (CELLS // 10, 1))
        blocks.append(csr_matrix(rng.poisson(depth * share).astype(np.uint32)))
    return csr_matrix(vstack(blocks))


def as_written(
    counts: csr_matrix, genes: NDArray[np.int64], means: NDArray[np.float64]
) -> Iterator[NDArray[np.int64]]:
    """Tokens of each cell by way of a row of the whole vocabulary."""
    for i in range(counts.shape[0]):
        cell = np.zeros(GENES)
        cell[genes] = counts[i].toarray()[0]
        cell *= 1e4 / cell.sum()
        cell /= means
        present = np.nonzero(cell)[0]
        yield present[np.argsort(-cell[present], kind="stable")][:CONTEXT] + 30


def entries_only(
    counts: csr_matrix, genes: NDArray[np.int64], means: NDArray[np.float64]
) -> Iterator[NDArray[np.int64]]:
    """Tokens of each cell from its entries alone."""
    indptr, indices, data = counts.indptr, counts.indices, counts.data
    for start, stop in pairwise(indptr.tolist()):
        gene = genes[indices[start:stop]]
        yield gene[np.lexsort((gene, -data[start:stop] / means[gene]))][:CONTEXT] + 30


def _median_s(run: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))
