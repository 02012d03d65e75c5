"""Gene vocabulary: ordered genes and the token ids they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ml.errors import InputError

FIRST_GENE = 30
RESERVED = {
    "mask": 0, "pad": 1, "cls": 2, "dissociated": 3, "spatial": 4, "human": 5, "mouse": 6,
    "MERFISH": 7, "CosMx": 8, "Xenium": 9,
    "10x 5' v2": 10, "10x 3' v3": 11, "10x 3' v2": 12, "10x 5' v1": 13, "10x 3' v1": 14,
    "10x 3' transcription profiling": 15, "10x 5' transcription profiling": 16,
    "CITE-seq": 17, "Smart-seq v4": 18,
}  # fmt: skip
"""Ids with a meaning of their own, as Nicheformer's pretrained weights have them."""
PAD = RESERVED["pad"]


@dataclass(frozen=True)
class Vocabulary:
    """Ordered genes with the non-zero mean of each, in one technology or training part.

    Token id of gene i is ``FIRST_GENE + i``. The non-zero mean of a gene is the mean, over the
    cells that express it, of its counts scaled to 10,000 per cell.

    Attributes:
        symbols: one per gene, unique.
        nonzero_means: (genes,); NaN where unknown.
        gene_ids: Ensembl's, one per gene and empty where unknown; or none at all.
    """

    symbols: tuple[str, ...]
    nonzero_means: NDArray[np.floating[Any]]
    gene_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.nonzero_means) != len(self.symbols) or len(self.gene_ids) not in (
            0,
            len(self.symbols),
        ):
            raise ValueError("there must be one mean, and one gene id or none, per symbol")
        if len(set(self.symbols)) != len(self.symbols):
            raise InputError(
                "vocabulary.duplicate_genes",
                "gene vocabulary",
                "A gene symbol occurs twice.",
                "Merge or rename the duplicated genes.",
            )

    def __len__(self) -> int:
        """Size of the embedding table: reserved ids and genes."""
        return FIRST_GENE + len(self.symbols)

    @cached_property
    def index(self) -> dict[str, int]:
        """Symbol → position in the vocabulary."""
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @classmethod
    def fit(cls, counts: csr_matrix, symbols: list[str]) -> Vocabulary:
        """Vocabulary of these genes with the non-zero means of `counts` (cells × genes)."""
        scaled = scale_rows(counts)
        expressed = np.bincount(scaled.indices, minlength=counts.shape[1])
        sums = np.bincount(scaled.indices, weights=scaled.data, minlength=counts.shape[1])
        # A gene that no training cell expresses has no mean; 1 leaves its counts as they are.
        means = np.where(expressed > 0, sums / np.maximum(expressed, 1), 1.0)
        return cls(tuple(symbols), means.astype(np.float32))

    @cached_property
    def id_index(self) -> dict[str, int]:
        """Ensembl id → position in the vocabulary."""
        return {gene_id: i for i, gene_id in enumerate(self.gene_ids) if gene_id}

    def places(
        self, symbols: Sequence[str], where: str, gene_ids: Sequence[str] = ()
    ) -> NDArray[np.int64]:
        """(columns,) the vocabulary's gene in each column of a table, −1 where it has none.

        A column is found by its Ensembl id (its version is ignored); otherwise by its symbol.

        Raises:
            InputError ``genes.none_shared`` when the two have no gene in common,
            ``genes.duplicate`` when two columns are one gene.
        """
        found = [self.id_index.get(stable_id(gene_id), -1) for gene_id in gene_ids]
        found = found or [-1] * len(symbols)
        taken = set(found)
        for column, symbol in enumerate(symbols):
            by_symbol = self.index.get(symbol, -1)
            if found[column] < 0 and by_symbol not in taken:
                found[column] = by_symbol
        places = np.array(found, np.int64)
        if not (places >= 0).any():
            raise InputError(
                "genes.none_shared",
                where,
                f"None of its {len(symbols)} gene names is among the model's "
                f"{len(self.symbols)} genes (for example {', '.join(self.symbols[:3])}).",
                "Use the gene symbols the model was trained on, or train a model on this panel.",
            )
        gene, columns = np.unique(places[places >= 0], return_counts=True)
        if (columns > 1).any():
            raise InputError(
                "genes.duplicate",
                where,
                f"{self.symbols[gene[columns > 1][0]]} is in more than one column.",
                "Add up the columns of each gene, or name them differently.",
            )
        return places

    def align(
        self, symbols: list[str], where: str, gene_ids: Sequence[str] = ()
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Columns of a table that the vocabulary has, and the positions they go to; as `places`."""
        places = self.places(symbols, where, gene_ids)
        columns = np.flatnonzero(places >= 0)
        return columns, places[columns]

    def as_dict(self) -> dict[str, Any]:
        """JSON form; an unknown mean is null."""
        means = self.nonzero_means.tolist()
        data: dict[str, Any] = {
            "symbols": list(self.symbols),
            "nonzero_means": [None if np.isnan(mean) else mean for mean in means],
        }
        if self.gene_ids:
            data["gene_ids"] = list(self.gene_ids)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Vocabulary:
        """The inverse of `as_dict`."""
        means = np.array(data["nonzero_means"], np.float64)  # null becomes NaN
        return cls(tuple(data["symbols"]), means, tuple(data.get("gene_ids", ())))


def stable_id(gene_id: str) -> str:
    """An Ensembl id without its version: ENSG00000141736.14 → ENSG00000141736."""
    return gene_id.split(".")[0] if gene_id.startswith("ENS") else gene_id


def scale_rows(counts: csr_matrix, totals: NDArray[np.float64] | None = None) -> csr_matrix:
    """Counts scaled to 10,000 per row (of `totals` where given); rows of zeros stay zero."""
    matrix = csr_matrix(counts, dtype=np.float64, copy=True)
    matrix.eliminate_zeros()
    if totals is None:
        totals = np.asarray(matrix.sum(axis=1)).ravel()
    factor = 1e4 / np.maximum(totals, 1.0)
    matrix.data *= np.repeat(factor, np.diff(matrix.indptr))
    return matrix
