"""Rank-value tokens (Nicheformer's recipe) for all cells of a CSR matrix at once.

A cell's genes in falling order of count ÷ the gene's non-zero mean, ties by gene. The recipe scales
each cell to 10,000 counts first; that is one factor for all genes of a cell and leaves their order
as it is, so it is left out, which also keeps ties exact: equal ratios are equal floats.

Few pairs of gene and count exist in a table, though it has millions of entries. Every pair that
occurs is ranked once; each cell is then a short row of small whole numbers to sort.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ml.errors import InputError
from ml.report import Report
from ml.tokens.vocabulary import FIRST_GENE, PAD, RESERVED, Vocabulary

_CELLS_AT_ONCE = 4096  # a chunk's keys stay in the cache
_LARGEST_TABLE = 1 << 23  # pairs of gene and count; beyond, each chunk ranks its own entries

Ints = NDArray[np.int64]
Ids = NDArray[Any]  # uint16 or uint32 token ids


@dataclass(frozen=True)
class Tokens:
    """Token ids of cells, one after the other.

    Attributes:
        indptr: (cells + 1,) int64; cell i has ``ids[indptr[i]:indptr[i + 1]]``.
        ids: uint16, or uint32 where the vocabulary needs it.
    """

    indptr: Ints
    ids: Ids

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> Ints:
        """(cells,) number of tokens."""
        return np.diff(self.indptr)

    def padded(self, context: int, lead: Sequence[int] = ()) -> NDArray[np.int32]:
        """(cells, context): `lead` (auxiliary tokens), the cell's tokens as far as fit, ``PAD``."""
        room = context - len(lead)
        if room < 0:
            raise ValueError(f"{len(lead)} auxiliary tokens do not fit into {context}")
        out = np.full((len(self), context), PAD, np.int32)
        out[:, : len(lead)] = lead
        for start in range(0, len(self), _CELLS_AT_ONCE):
            bounds = self.indptr[start : start + _CELLS_AT_ONCE + 1]
            lengths = np.diff(bounds)
            place = np.arange(lengths.max(initial=0))
            ids = self.ids[bounds[0] : bounds[-1]]
            if len(place) > room:
                filled = place < lengths[:, None]
                ids = ids[np.broadcast_to(place < room, filled.shape)[filled]]
                place = place[:room]
            rows = out[start : start + _CELLS_AT_ONCE, len(lead) : len(lead) + len(place)]
            rows[place < lengths[:, None]] = ids
        return out

    def without_empty(self, where: str, report: Report) -> tuple[Tokens, Ints]:
        """The cells that have tokens, and which they are; the report says how many have none.

        Raises:
            InputError ``tokens.none`` when no cell has any.
        """
        kept = np.flatnonzero(self.lengths)
        empty = len(self) - len(kept)
        if not len(kept):
            raise InputError(
                "tokens.none",
                where,
                f"None of its {len(self):,} cells has a count of a gene of the vocabulary.",
                "Check that it holds raw counts, and use a vocabulary of its panel.",
            )
        if empty:
            report.log(f"{where}: {empty:,} of {len(self):,} cells have no token and are left out.")
        return Tokens(np.append(0, np.cumsum(self.lengths[kept])), self.ids), kept


def auxiliary(assay: str, modality: str = "spatial", species: str = "human") -> tuple[int, ...]:
    """The tokens that a cell begins with in the published context: modality, assay, species.

    Raises:
        InputError ``tokens.auxiliary`` for a word that has no token.
    """
    unknown = [word for word in (modality, assay, species) if word not in RESERVED]
    if unknown:
        raise InputError(
            "tokens.auxiliary",
            f"{unknown[0]!r}",
            "There is no auxiliary token for it.",
            f"Use one of: {', '.join(list(RESERVED)[3:])}.",
        )
    return RESERVED[modality], RESERVED[assay], RESERVED[species]


def rank_tokens(
    counts: csr_matrix, vocabulary: Vocabulary, context: int, lead: Sequence[int] = ()
) -> NDArray[np.int32]:
    """Genes of each cell by falling count relative to the gene's non-zero mean.

    Args:
        counts: (cells, genes) raw counts, columns in the order of the vocabulary.
        vocabulary: gives the non-zero means.
        context: tokens kept per cell, auxiliary ones included.
        lead: auxiliary tokens that each cell begins with.

    Returns:
        (cells, context) token ids, padded with ``PAD``. Ties go to the gene with the lower index;
        a cell without counts has auxiliary tokens and padding only.
    """
    columns = np.arange(len(vocabulary.symbols))
    return tokenise(counts, columns, vocabulary, context - len(lead)).padded(context, lead)


def tokenise(
    counts: csr_matrix,
    genes: Ints,
    vocabulary: Vocabulary,
    limit: int,
    threads: int | None = None,
) -> Tokens:
    """Ragged tokens of each cell.

    Args:
        counts: (cells, columns) raw counts.
        genes: (columns,) the vocabulary's gene in each column, −1 for a column to leave out; no
            gene twice (`Vocabulary.places` makes it).
        vocabulary: gives the non-zero means; unknown and zero means count as 1.
        limit: the most tokens of a cell.
        threads: 2 by default, or 1 where there is one core.

    Raises:
        InputError ``counts.negative`` for counts below zero or not finite.
    """
    if not counts.has_canonical_format:
        counts = csr_matrix(counts, copy=True)
        counts.sum_duplicates()
    ranking = _ranking(counts, genes, _divisors(vocabulary.nonzero_means))
    dtype = np.uint16 if len(vocabulary) <= 1 << 16 else np.uint32
    starts = range(0, counts.shape[0], _CELLS_AT_ONCE)

    def chunk(start: int) -> tuple[Ints, Ids]:
        bounds = counts.indptr[start : start + _CELLS_AT_ONCE + 1].astype(np.int64)
        part = slice(bounds[0], bounds[-1])
        keys, gene_of_key = ranking.of(counts.indices[part], counts.data[part])
        return _sorted_genes(keys, gene_of_key, np.diff(bounds), limit, dtype)

    with ThreadPoolExecutor(threads or min(2, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(chunk, starts))
    lengths = np.concatenate([np.zeros(1, np.int64), *(part[0] for part in parts)])
    ids = np.concatenate([np.zeros(0, dtype), *(part[1] for part in parts)])
    return Tokens(np.cumsum(lengths), ids)


def _divisors(means: NDArray[Any]) -> NDArray[np.float64]:
    """What counts are divided by: the mean of each gene, 1 where it has none."""
    known = np.nan_to_num(means.astype(np.float64), nan=1.0)
    return np.where(known == 0, 1.0, known)


def _sorted_genes(
    keys: NDArray[Any], gene_of_key: Ids, entries: Ints, limit: int, dtype: Any
) -> tuple[Ints, Ids]:
    """Tokens of a chunk: sort each cell's keys, leave out the last key, turn keys into genes.

    Args:
        keys: (n,) unsigned rank of each entry; the last rank marks an entry that is no token.
        gene_of_key: gene of each rank but the last.
        entries: (cells,) how many of the n belong to each cell.

    Returns:
        Tokens per cell, and their ids.
    """
    last = len(gene_of_key)
    width = int(entries.max(initial=0))
    rows = np.full((len(entries), width), last, keys.dtype)
    rows[np.arange(width) < entries[:, None]] = keys
    rows.sort(axis=1)
    rows = rows[:, :limit]
    tokens = rows != last
    ids = gene_of_key.take(rows[tokens]).astype(dtype)
    ids += FIRST_GENE
    return tokens.sum(1, dtype=np.int64), ids


class _Pairs:
    """Ranks of the pairs of column and whole count that occur in a matrix.

    Args:
        columns, counts: the matrix's entries.
        largest: the largest count.
        genes, divisors: as in `tokenise`; (columns,) and (genes,).
    """

    def __init__(
        self, columns: Ids, counts: Ids, largest: int, genes: Ints, divisors: NDArray[np.float64]
    ) -> None:
        self._stride = largest + 1
        seen = np.zeros(len(genes) * self._stride, bool)
        for start in range(0, len(columns), 1 << 20):
            part = slice(start, start + (1 << 20))
            seen[self._pair(columns[part], counts[part])] = True
        present = seen.reshape(len(genes), self._stride)
        present[genes < 0] = False
        present[:, 0] = False  # a stored zero is no token
        column, count = np.nonzero(present)
        order, self._genes = _ranked(genes[column], count, divisors)
        last = len(order)
        table = np.full(seen.size, last, np.min_scalar_type(last))
        table[self._pair(column, count)[order]] = np.arange(last)
        self._table = table

    def of(self, columns: Ids, counts: Ids) -> tuple[Ids, Ids]:
        """Rank of each entry, and the gene of each rank."""
        return self._table.take(self._pair(columns, counts)), self._genes

    def _pair(self, columns: Ids, counts: Ids) -> Ids:
        pairs: Ids = columns.astype(np.int32) * np.int32(self._stride)
        pairs += counts.astype(np.int32)
        return pairs


class _Entries:
    """Ranks of the entries of a chunk among themselves: for counts that are no small numbers."""

    def __init__(self, genes: Ints, divisors: NDArray[np.float64]) -> None:
        self._of_column, self._divisors = genes, divisors

    def of(self, columns: Ids, counts: Ids) -> tuple[Ids, Ids]:
        """Rank of each entry, and the gene of each rank."""
        genes = self._of_column[columns]
        tokens = np.flatnonzero((genes >= 0) & (counts > 0))
        order, gene_of_key = _ranked(genes[tokens], counts[tokens], self._divisors)
        keys = np.full(len(columns), len(order), np.uint32)
        keys[tokens[order]] = np.arange(len(order))
        return keys, gene_of_key


def _ranked(genes: Ints, counts: Ids, divisors: NDArray[np.float64]) -> tuple[Ints, Ids]:
    """Order of entries by falling ratio, then by gene; and their genes in this order."""
    order = np.lexsort((genes, -counts / divisors[genes]))
    return order, genes[order].astype(np.uint32)


def _ranking(counts: csr_matrix, genes: Ints, divisors: NDArray[np.float64]) -> _Pairs | _Entries:
    data = counts.data
    smallest, largest = (data.min(), data.max()) if len(data) else (0, 0)
    if not (smallest >= 0 and largest < np.inf):  # also when they are NaN
        raise InputError(
            "counts.negative",
            "counts",
            f"There are values from {smallest} to {largest}.",
            "Give raw counts.",
        )
    size = len(genes) * (int(largest) + 1)
    if size <= _LARGEST_TABLE and _all_whole(data):
        return _Pairs(counts.indices, data, int(largest), genes, divisors)
    return _Entries(genes, divisors)


def _all_whole(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "ui" or bool((values == np.floor(values)).all())
