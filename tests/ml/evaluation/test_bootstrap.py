"""Intervals cover as stated, tests are uniform under the null, corrections are the textbook's."""

import numpy as np
import pytest
from scipy import stats

from ml.evaluation.bootstrap import Resampling, blocks
from ml.evaluation.significance import (
    benjamini_hochberg,
    by_patient,
    compared,
    gene_p,
    holm,
    sign_flip_p,
    smallest_p,
)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_paired_difference_finds_the_better_predictor_and_covers_zero_for_equals(rng):
    slide = np.repeat([0, 1, 2], 200)
    measured = rng.normal(size=(600, 20))
    good, also_good = (measured + rng.normal(size=measured.shape) for _ in range(2))
    poor = measured + 3 * rng.normal(size=measured.shape)
    block = blocks(rng.uniform(0, 1000, size=(600, 2)), 200.0)
    draws = {
        name: Resampling(slide, block, resamples=200).pearson(x, measured)
        for name, x in (("good", good), ("poor", poor), ("also", also_good))
    }
    difference, low, high = draws["good"].minus(draws["poor"])
    assert low < difference < high and low > 0.2
    assert difference == pytest.approx(
        np.median(draws["good"].found) - np.median(draws["poor"].found), abs=1e-9
    )
    _, low, high = draws["good"].minus(draws["also"])
    assert low < 0 < high


@pytest.mark.parametrize("units", [None, [f"P{i}" for i in range(8)]])
def test_a_difference_lies_in_its_interval_where_slides_have_few_blocks(rng, units):
    """A gap between rows far apart, which fewer blocks of a slide show less of."""
    slide = np.repeat(np.arange(8), 60)
    xy = np.tile(np.stack([np.linspace(0, 300, 60), np.zeros(60)], 1), (8, 1))
    measured = xy[:, :1] / 100 + rng.normal(size=(480, 15))
    good, poor = xy[:, :1] + 20 * rng.normal(size=(480, 15)), rng.normal(size=(480, 15))
    resampling = Resampling(slide, blocks(xy, 100.0), units, resamples=200)
    difference, low, high = resampling.pearson(good, measured).minus(
        resampling.pearson(poor, measured)
    )
    assert 0 < low < difference < high


def test_gene_intervals_hold_the_truth_and_narrow_with_rows(rng):
    patients, groups = [f"P{i}" for i in range(6)], np.repeat(np.arange(6), 400)
    truth, noise = rng.normal(size=(2400, 200)), rng.normal(size=(2400, 200))
    measured = np.where(np.arange(200) < 100, truth + noise, noise)  # the last 100 tell nothing
    block = np.tile(np.repeat(np.arange(20), 20), 6)
    reachable = np.sqrt(0.5)
    for units in (patients, ["P0"] * 6):
        low, high = Resampling(groups, block, units).pearson(truth, measured).interval()
        assert ((low < reachable) & (reachable < high))[:100].mean() > 0.9
        assert (low[:100] > 0.6).all() and (high[:100] < 0.8).all()
        assert (low <= 0)[100:].mean() > 0.94 and (high[100:] < 0.15).all()
        few = Resampling(groups[::8], block[::8], units).pearson(truth[::8], measured[::8])
        few_low, few_high = few.interval()
        assert (few_high - few_low).mean() > 1.5 * (high - low).mean()


def test_intervals_over_patients_cover_as_stated(rng):
    """Patients differ: each has a correlation of its own, and the mean of all is to be covered."""
    covered, patients, rows, mean = [], 8, 60, 0.5
    slide = np.repeat(np.arange(patients), rows)
    units = [f"P{i}" for i in range(patients)]
    for _ in range(60):
        rho = np.clip(rng.normal(mean, 0.1, (patients, 10)), -0.95, 0.95)[slide]
        truth = rng.normal(size=(patients * rows, 10))
        predicted = rho * truth + np.sqrt(1 - rho**2) * rng.normal(size=truth.shape)
        draws = Resampling(slide, slide, units, resamples=400).pearson(predicted, truth)
        low, high = draws.interval()
        covered.append(((low < mean) & (mean < high)).mean())
    assert 0.92 < np.mean(covered) < 0.985


def test_patients_are_drawn_with_all_their_slides(rng):
    slide = np.repeat(np.arange(10), 30)
    measured = rng.normal(size=(300, 4))
    predicted = measured + rng.normal(size=measured.shape)
    units = [f"P{i // 2}" for i in range(10)]
    resampling = Resampling(slide, slide, units)
    assert resampling.of == "patients" and smallest_p(units) == pytest.approx(1 / 16)
    assert Resampling(slide, slide, [*units[:8], "P0", "P0"]).of == "blocks"
    draws = resampling.pearson(predicted, measured)
    each = by_patient(draws.slides, units)
    assert each.shape == (5, 4)
    assert each[0] == pytest.approx(draws.slides[:2].mean(0))


def test_noise_gives_uniform_p_values_and_signal_small_ones(rng):
    slide, units = np.repeat(np.arange(8), 80), [f"P{i}" for i in range(8)]
    noise, measured = rng.normal(size=(640, 400)), rng.normal(size=(640, 400))
    resampling = Resampling(slide, slide, units, resamples=50)
    p = gene_p(resampling.pearson(noise, measured), units)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert (gene_p(resampling.pearson(measured + noise, measured), units) < 1e-4).all()
    few = Resampling(slide, np.tile(np.repeat(np.arange(20), 4), 8), ["P0"] * 8)
    p = gene_p(few.pearson(noise, measured), ["P0"] * 8)
    assert 0.02 < (p < 0.05).mean() < 0.1


def test_corrections_are_those_of_scipy_and_the_textbook(rng):
    p = rng.uniform(size=30) ** 3
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    assert np.isnan(benjamini_hochberg(np.array([0.01, np.nan]))[1])
    # Holm's own worked rule: p(i) times the number that is left, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_sign_flips_are_those_of_all_patterns_and_of_a_sample(rng):
    values = rng.normal(0.5, 1, 10)
    exact = stats.permutation_test(
        (values,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples",
        vectorized=True, n_resamples=np.inf,
    )  # fmt: skip
    assert sign_flip_p(values) == pytest.approx(exact.pvalue)
    assert sign_flip_p(np.ones(5)) == pytest.approx(2 / 32)
    many = rng.normal(0.0, 1, 40)
    assert sign_flip_p(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.05)


def test_a_verdict_needs_a_corrected_p_and_an_interval_on_one_side(rng):
    slide, units = np.repeat(np.arange(8), 60), [f"P{i}" for i in range(8)]
    measured = rng.normal(size=(480, 12))
    resampling = Resampling(slide, slide, units, resamples=300)

    def draws(noise):
        return resampling.pearson(measured + noise * rng.normal(size=measured.shape), measured)

    model = draws(1.0)
    found = compared(model, {"poor": draws(4.0), "same": draws(1.0), "good": draws(0.2)}, units)
    assert found["poor"]["verdict"] == "ahead" and found["good"]["verdict"] == "behind"
    assert found["same"]["verdict"] == "cannot tell"
    assert all(of["p_holm"] >= of["p"] for of in found.values())


def test_nothing_to_score_says_so(rng):
    values = rng.normal(size=(6, 3))
    draws = Resampling(np.zeros(6), np.zeros(6, int), ["P0"]).pearson(values, values)
    assert np.isnan(draws.found).all() and draws.minus(draws) == (0.0, 0.0, 0.0)
    assert np.isnan(draws.median()[0])
