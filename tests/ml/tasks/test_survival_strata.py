"""Strata: where cut-offs fall, who is on which side, and what cannot be divided."""

import numpy as np
import pytest

from ml.errors import InputError
from ml.tasks.survival_strata import Cut, stratify_levels, stratify_number


def test_median_gives_the_value_itself_to_the_lower_stratum():
    strata = stratify_number([1, 2, 3, 4, 5], Cut.MEDIAN, unit="years")
    assert strata.group.tolist() == [0, 0, 0, 1, 1]
    assert strata.labels == ("Low (≤ 3 years)", "High (> 3 years)")
    (cutoff,) = strata.cutoffs
    assert (cutoff.value, cutoff.name, cutoff.from_data) == (3, "median", True)


@pytest.mark.parametrize(("cut", "sizes"), [(Cut.TERTILES, [4, 4, 4]), (Cut.QUARTILES, [3] * 4)])
def test_quantiles_divide_evenly(cut, sizes):
    strata = stratify_number(np.arange(12.0), cut)
    assert np.bincount(strata.group).tolist() == sizes
    assert all(cutoff.from_data for cutoff in strata.cutoffs)


def test_quantiles_are_of_the_known_values_only():
    strata = stratify_number([1, np.nan, 2, 3, np.nan, 4], Cut.MEDIAN)
    assert strata.group.tolist() == [0, -1, 0, 1, -1, 1]


def test_given_value_is_not_called_taken_from_the_data():
    strata = stratify_number([1, 5, 9], Cut.VALUE, value=5)
    assert strata.group.tolist() == [0, 0, 1]
    assert not strata.cutoffs[0].from_data


def test_zeros_of_a_sparse_gene_stay_together():
    strata = stratify_number([0, 0, 0, 0, 0, 1, 2, 3], Cut.QUARTILES)
    assert len(set(strata.group[:5])) == 1
    assert any("median divides nobody" in note for note in strata.notes)


def test_labels_tell_close_cut_offs_apart():
    labels = stratify_number([0.12341, 0.12342, 0.12343, 0.12344], Cut.TERTILES).labels
    assert len(set(labels)) == 3


@pytest.mark.parametrize(
    ("code", "values", "cut", "value"),
    [
        ("survival.one_group", [2, 2, 2], Cut.MEDIAN, None),
        ("survival.one_group", [1, 2, 3], Cut.VALUE, 7),
        ("survival.one_group", [1, 2, 3], Cut.VALUE, 0),
        ("survival.no_value", [1, 2, 3], Cut.VALUE, None),
        ("survival.no_value", [1, 2, 3], Cut.VALUE, float("nan")),
        ("survival.cut", [1, 2, 3], Cut.LEVELS, None),
        ("survival.one_group", [np.nan, np.nan], Cut.VALUE, 1),
    ],
)
def test_what_cannot_be_divided(code, values, cut, value):
    with pytest.raises(InputError) as caught:
        stratify_number(values, cut, value=value)
    assert caught.value.code == code


def test_levels_keep_their_order_and_missing_stays_out():
    strata = stratify_levels(["II", "I", None, "IV", "", "I"], ["I", "II", "III", "IV"])
    assert strata.labels == ("I", "II", "IV")
    assert strata.group.tolist() == [1, 0, -1, 2, -1, 0]


def test_chosen_levels_only():
    strata = stratify_levels(["a", "b", "c"], chosen=["a", "c"])
    assert strata.labels == ("a", "c")
    assert strata.group.tolist() == [0, -1, 1]


@pytest.mark.parametrize(
    ("code", "values", "chosen"),
    [
        ("survival.one_group", ["a", "a", None], []),
        ("survival.one_group", ["a", "b"], ["a"]),
        ("survival.level", ["a", "b"], ["z"]),
        ("survival.too_many_groups", [str(i) for i in range(9)], []),
    ],
)
def test_levels_that_do_not_divide(code, values, chosen):
    with pytest.raises(InputError) as caught:
        stratify_levels(values, chosen=chosen)
    assert caught.value.code == code
