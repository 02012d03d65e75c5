"""Gene vocabulary: ordered genes and the token ids they have."""

from __future__ import annotations

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
}  # fmt: skip
PAD = RESERVED["pad"]


@dataclass(frozen=True)
class Vocabulary:
    """Ordered gene symbols with the non-zero mean of each in the training part.

    Token id of gene i is ``FIRST_GENE + i``. The non-zero mean of a gene is the mean, over the
    cells that express it, of its counts scaled to 10,000 per cell.
    """

    symbols: tuple[str, ...]
    nonzero_means: NDArray[np.float32]

    def __post_init__(self) -> None:
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

    def align(self, symbols: list[str], where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Columns of a table and the vocabulary positions they go to.

        Raises:
            InputError ``genes.none_shared`` when the two have no gene in common.
        """
        pairs = [(i, self.index[s]) for i, s in enumerate(symbols) if s in self.index]
        if not pairs:
            raise InputError(
                "genes.none_shared",
                where,
                f"None of its {len(symbols)} gene names is among the model's "
                f"{len(self.symbols)} genes (for example {', '.join(self.symbols[:3])}).",
                "Use the gene symbols the model was trained on, or train a model on this panel.",
            )
        columns, positions = np.array(pairs, dtype=np.int64).T
        return columns, positions

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "symbols": list(self.symbols),
            "nonzero_means": [float(v) for v in self.nonzero_means],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Vocabulary:
        """The inverse of `as_dict`."""
        return cls(tuple(data["symbols"]), np.asarray(data["nonzero_means"], np.float32))


def scale_rows(counts: csr_matrix, totals: NDArray[np.float64] | None = None) -> csr_matrix:
    """Counts scaled to 10,000 per row (of `totals` where given); rows of zeros stay zero."""
    matrix = csr_matrix(counts, dtype=np.float64, copy=True)
    matrix.eliminate_zeros()
    if totals is None:
        totals = np.asarray(matrix.sum(axis=1)).ravel()
    factor = 1e4 / np.maximum(totals, 1.0)
    matrix.data *= np.repeat(factor, np.diff(matrix.indptr))
    return matrix
