"""Rank-value tokens against a literal implementation, and the vocabulary's errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix

from ml.errors import InputError
from ml.tokens.rank import rank_tokens
from ml.tokens.vocabulary import FIRST_GENE, PAD, Vocabulary


def literal(counts, means, context):
    """One cell at a time, as the recipe is written."""
    rows = []
    for cell in counts:
        total = cell.sum()
        values = [
            (-(count * 1e4 / total) / (mean or 1.0), gene)
            for gene, (count, mean) in enumerate(zip(cell, means, strict=True))
            if count
        ]
        tokens = [gene + FIRST_GENE for _, gene in sorted(values)][:context]
        rows.append(tokens + [PAD] * (context - len(tokens)))
    return np.array(rows).reshape(len(counts), context)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.int64, st.tuples(st.integers(1, 8), st.just(7)), elements=st.integers(0, 4)),
    st.integers(1, 9),
)
def test_tokens_equal_the_literal_recipe(counts, context):
    # Powers of two divide exactly, so that ties are ties in both implementations.
    means = np.array([1, 2, 4, 1, 2, 0.5, 1], np.float32)
    vocabulary = Vocabulary(tuple("ABCDEFG"), means)
    tokens = rank_tokens(csr_matrix(counts), vocabulary, context)
    assert np.array_equal(tokens, literal(counts, means.astype(float), context))


def test_stored_zeros_and_unsorted_indices_do_not_change_tokens():
    vocabulary = Vocabulary(("A", "B", "C"), np.ones(3, np.float32))
    plain = csr_matrix(np.array([[2, 0, 1]]))
    untidy = csr_matrix((np.array([1, 2, 0]), np.array([2, 0, 1]), np.array([0, 3])), (1, 3))
    assert np.array_equal(rank_tokens(plain, vocabulary, 3), rank_tokens(untidy, vocabulary, 3))


def test_nonzero_means_are_of_expressing_cells_only():
    counts = csr_matrix(np.array([[1, 1, 0], [0, 4, 0], [3, 1, 0]]))
    means = Vocabulary.fit(counts, ["A", "B", "C"]).nonzero_means
    assert means == pytest.approx([(5000 + 7500) / 2, (5000 + 10000 + 2500) / 3, 1.0])


def test_a_table_without_the_panels_genes_is_refused():
    vocabulary = Vocabulary(("EPCAM", "CD3D"), np.ones(2, np.float32))
    with pytest.raises(InputError) as caught:
        vocabulary.align(["ENSG01", "ENSG02"], "slide P1")
    assert caught.value.code == "genes.none_shared"
    assert "P1" in caught.value.where and "EPCAM" in caught.value.what


def test_duplicate_symbols_are_refused():
    with pytest.raises(InputError, match="twice"):
        Vocabulary(("A", "A"), np.ones(2, np.float32))
