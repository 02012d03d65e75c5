"""Rank-value tokens (Nicheformer's recipe), for all cells of a CSR matrix at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ml.tokens.vocabulary import FIRST_GENE, PAD, Vocabulary, scale_rows


def rank_tokens(counts: csr_matrix, vocabulary: Vocabulary, context: int) -> NDArray[np.int32]:
    """Genes of each cell by falling scaled count relative to the gene's non-zero mean.

    Args:
        counts: (cells, genes) raw counts, columns in the order of the vocabulary.
        vocabulary: gives the non-zero means.
        context: tokens kept per cell.

    Returns:
        (cells, context) token ids, padded with ``PAD``. Ties go to the gene with the lower index;
        a cell without counts has padding only.
    """
    scaled = scale_rows(counts)
    scaled.sort_indices()
    means = np.nan_to_num(vocabulary.nonzero_means.astype(np.float64), nan=1.0)
    values = scaled.data / np.where(means == 0, 1.0, means)[scaled.indices]
    lengths = np.diff(scaled.indptr)
    cells = np.repeat(np.arange(len(lengths)), lengths)
    # Stable sorts keep the gene order within ties; sorting by value, then by cell, groups cells.
    order = np.argsort(-values, kind="stable")
    order = order[np.argsort(cells[order], kind="stable")]
    rank = np.arange(len(order)) - np.repeat(scaled.indptr[:-1], lengths)
    kept = rank < context
    tokens = np.full((len(lengths), context), PAD, np.int32)
    tokens[cells[kept], rank[kept]] = scaled.indices[order][kept] + FIRST_GENE
    return tokens
