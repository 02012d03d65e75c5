"""Scores of single genes against literal formulas, and what happens where they are not defined."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ml.evaluation import metrics

# Values on a grid: many ties, and no differences so small that only rounding tells them.
VALUES = st.integers(-40, 40).map(lambda v: v / 8)
PAIRS = arrays(np.float64, (2, 24, 3), elements=VALUES)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_correlations_are_scipys_wherever_they_are_defined(pair):
    x, y = pair
    for ours, theirs in ((metrics.pearson, stats.pearsonr), (metrics.spearman, stats.spearmanr)):
        found = ours(x, y)
        for gene in range(3):
            if np.ptp(y[:, gene]) == 0:
                assert np.isnan(found[gene])
            elif np.ptp(x[:, gene]) == 0:
                assert found[gene] == 0
            else:
                assert found[gene] == pytest.approx(theirs(x[:, gene], y[:, gene])[0], abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, (2, 24, 3), elements=VALUES.map(abs)))
def test_structural_similarity_and_variation_are_their_formulas(pair):
    x, y = pair
    similar = metrics.structural_similarity(x, y)
    varied = metrics.relative_variation_distance(x, y)
    for gene in range(3):
        a, b = x[:, gene], y[:, gene]
        if np.ptp(b) == 0:
            assert np.isnan(similar[gene]) and np.isnan(varied[gene])
            continue
        assert varied[gene] == pytest.approx(((np.var(a) - np.var(b)) / np.var(b)) ** 2)
        a, b = a / max(a.max(), 1e-12), b / b.max()
        covariance = np.mean((a - a.mean()) * (b - b.mean()))
        top = (2 * a.mean() * b.mean() + 0.01) * (2 * covariance + 0.03)
        bottom = (a.mean() ** 2 + b.mean() ** 2 + 0.01) * (a.var() + b.var() + 0.03)
        assert similar[gene] == pytest.approx(top / bottom)


def test_the_truth_scores_one_and_noise_nothing():
    rng = np.random.default_rng(0)
    truth, slide = rng.gamma(2.0, size=(4000, 8)), np.repeat(np.arange(4), 1000)
    for measure, perfect in (
        (metrics.pearson, 1.0), (metrics.spearman, 1.0), (metrics.structural_similarity, 1.0),
        (metrics.relative_variation_distance, 0.0),
    ):  # fmt: skip
        assert metrics.within_groups(truth, truth, slide, measure) == pytest.approx(perfect)
    noise = rng.gamma(2.0, size=truth.shape)
    for measure in (metrics.pearson, metrics.spearman):
        assert np.abs(metrics.within_groups(noise, truth, slide, measure)).max() < 0.06


def test_slides_that_do_not_define_a_score_take_no_part_in_its_mean():
    rng = np.random.default_rng(1)
    measured, slide = rng.normal(size=(60, 2)), np.repeat([0, 1], 30)
    predicted = measured + rng.normal(size=measured.shape)
    alone = metrics.pearson(predicted[:30], measured[:30])
    measured[30:, 0] = 2.0
    found = metrics.within_groups(predicted, measured, slide)
    assert found[0] == pytest.approx(alone[0]) and found[1] != pytest.approx(alone[1])
    measured[:, 0] = 2.0
    assert np.isnan(metrics.within_groups(predicted, measured, slide)[0])


def test_a_prediction_that_is_no_number_is_no_score_of_nought():
    rng = np.random.default_rng(2)
    measured = rng.normal(size=(30, 2))
    predicted = measured.copy()
    predicted[3, 1] = np.nan
    for measure in (metrics.pearson, metrics.spearman):
        found = measure(predicted, measured)
        assert found[0] == pytest.approx(1) and np.isnan(found[1])


def test_a_summary_counts_what_is_not_defined():
    assert metrics.summary(np.array([0.1, 0.3])) == {
        "pcc_q1": pytest.approx(0.15), "pcc_median": pytest.approx(0.2),
        "pcc_q3": pytest.approx(0.25),
    }  # fmt: skip
    some = metrics.summary(np.array([0.1, np.nan, 0.3]))
    assert some["pcc_median"] == pytest.approx(0.2) and some["pcc_undefined"] == 1
    assert metrics.summary(np.array([np.nan]))["pcc_median"] is None
