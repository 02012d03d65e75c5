"""Rank-value tokens against a literal implementation, and the vocabulary's errors."""

import json
from fractions import Fraction
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix

from ml.errors import InputError
from ml.report import ConsoleReport
from ml.tokens import rank
from ml.tokens.rank import rank_tokens
from ml.tokens.vocabulary import FIRST_GENE, PAD, Vocabulary


def literal(counts, genes, means, limit):
    """One cell at a time in exact numbers, as the recipe is written."""
    rows = []
    for cell in counts.tolist():
        total = sum(cell)
        values = []
        for column, gene in enumerate(genes):
            mean = 1.0 if np.isnan(means[gene]) or means[gene] == 0 else float(means[gene])
            if gene >= 0 and cell[column]:
                scaled = Fraction(cell[column] * 10_000, total) / Fraction(mean)
                values.append((-scaled, gene))
        rows.append([gene + FIRST_GENE for _, gene in sorted(values)][:limit])
    return rows


def listed(tokens):
    return [tokens.ids[a:b].tolist() for a, b in pairwise(tokens.indptr.tolist())]


MEANS = st.one_of(st.sampled_from([np.nan, 0.0, 1.0, 2.0, 3.0]), st.floats(0.0625, 1000, width=32))


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.parametrize("largest_table", [1 << 23, 0])
def test_tokens_equal_the_literal_recipe(largest_table, data):
    """With a table of pairs, and with counts too large for one."""
    columns = data.draw(st.integers(1, 9))
    most = data.draw(st.sampled_from([3, 300, 100_000]))
    shape = st.tuples(st.integers(1, 8), st.just(columns))
    counts = data.draw(arrays(np.int64, shape, elements=st.integers(0, most)))
    means = data.draw(arrays(np.float64, 12, elements=MEANS))
    genes = np.array(data.draw(st.permutations(range(12)))[:columns])
    genes[np.array(data.draw(st.lists(st.integers(0, columns - 1), max_size=2)), int)] = -1
    limit, threads = data.draw(st.integers(0, 10)), data.draw(st.integers(1, 3))
    vocabulary = Vocabulary(tuple("ABCDEFGHIJKL"), means)
    with mock.patch.multiple(rank, _LARGEST_TABLE=largest_table, _CELLS_AT_ONCE=3):
        tokens = rank.tokenise(csr_matrix(counts), genes, vocabulary, limit, threads)
        assert listed(tokens) == literal(counts, genes, means, limit)
        rows = listed(tokens)
        wide = data.draw(st.integers(3, 14))
        padded = tokens.padded(wide, (4, 9, 5))
    expected = [([4, 9, 5, *row] + [PAD] * wide)[:wide] for row in rows]
    assert padded.tolist() == expected


@pytest.mark.parametrize("factor", [1, 0.25])
def test_the_order_of_columns_and_their_scale_do_not_change_tokens(factor):
    """Counts that are no whole numbers are ranked entry by entry, with the same result."""
    random = np.random.default_rng(4)
    counts = random.poisson(0.5, (9_000, 40)).astype(float)
    vocabulary = Vocabulary(tuple(f"G{i}" for i in range(40)), random.integers(1, 5, 40) / 1.0)
    order = random.permutation(40)
    one = rank.tokenise(csr_matrix(counts), np.arange(40), vocabulary, 40)
    other = rank.tokenise(csr_matrix(factor * counts[:, order]), order, vocabulary, 40, threads=1)
    assert np.array_equal(one.ids, other.ids) and np.array_equal(one.indptr, other.indptr)
    assert one.ids.dtype == np.uint16


def test_a_large_vocabulary_has_ids_of_32_bits():
    symbols = tuple(f"G{i}" for i in range(70_000))
    vocabulary = Vocabulary(symbols, np.ones(70_000))
    tokens = rank.tokenise(csr_matrix([[1, 2]]), np.array([69_999, 4]), vocabulary, 2)
    assert tokens.ids.dtype == np.uint32 and tokens.ids.tolist() == [34, 70_029]


def test_cells_without_tokens_are_left_out_and_told(capsys):
    vocabulary = Vocabulary(("A", "B"), np.ones(2))
    counts = csr_matrix(np.array([[0, 0, 3], [1, 0, 0], [0, 0, 0], [1, 2, 0]]))
    tokens = rank.tokenise(counts, np.array([0, 1, -1]), vocabulary, 5)
    left, kept = tokens.without_empty("slide P1", ConsoleReport())
    assert kept.tolist() == [1, 3] and listed(left) == [[30], [31, 30]]
    assert "slide P1: 2 of 4 cells" in capsys.readouterr().err
    none = rank.tokenise(counts[[0, 2]], np.array([0, 1, -1]), vocabulary, 5)
    with pytest.raises(InputError, match="slide P2") as caught:
        none.without_empty("slide P2", ConsoleReport())
    assert caught.value.code == "tokens.none"


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_what_cannot_be_a_count_is_refused(wrong):
    vocabulary = Vocabulary(("A",), np.ones(1))
    with pytest.raises(InputError) as caught:
        rank.tokenise(csr_matrix([[wrong]]), np.zeros(1, np.int64), vocabulary, 1)
    assert caught.value.code == "counts.negative"


def test_auxiliary_tokens_are_modality_assay_species():
    assert rank.auxiliary("Xenium") == (4, 9, 5)
    assert rank.auxiliary("10x 3' v3", "dissociated", "mouse") == (3, 11, 6)
    with pytest.raises(InputError, match="Visium"):
        rank.auxiliary("Visium")


def test_a_matrix_without_cells_or_counts_has_no_tokens():
    vocabulary = Vocabulary(("A", "B"), np.ones(2))
    for cells in (0, 3):
        tokens = rank.tokenise(csr_matrix((cells, 2)), np.arange(2), vocabulary, 4)
        assert len(tokens) == cells and tokens.ids.tolist() == []
        assert tokens.padded(2).tolist() == [[PAD, PAD]] * cells


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


def test_columns_are_found_by_ensembl_id_then_by_symbol():
    vocabulary = Vocabulary(("ERBB2", "CD3D", "TP53"), np.ones(3), ("ENSG2", "ENSG3", ""))
    symbols, ids = ["TP53", "HER2", "CD3D", "CD3D-old"], ["", "ENSG2.7", "ENSG9", "ENSG3"]
    assert vocabulary.places(symbols, "t", ids).tolist() == [2, 0, -1, 1]
    assert vocabulary.places(symbols, "t").tolist() == [2, -1, 1, -1]
    columns, positions = vocabulary.align(symbols, "t", ids)
    assert columns.tolist() == [0, 1, 3] and positions.tolist() == [2, 0, 1]
    with pytest.raises(InputError, match="ERBB2") as caught:
        vocabulary.places(["a", "b"], "t", ["ENSG2.1", "ENSG2.2"])
    assert caught.value.code == "genes.duplicate"


def test_a_vocabulary_survives_json():
    vocabulary = Vocabulary(("A", "B"), np.array([0.1, np.nan]), ("ENSG1", ""))
    again = Vocabulary.from_dict(json.loads(json.dumps(vocabulary.as_dict(), allow_nan=False)))
    assert again.symbols == vocabulary.symbols and again.gene_ids == vocabulary.gene_ids
    assert np.array_equal(again.nonzero_means, vocabulary.nonzero_means, equal_nan=True)
