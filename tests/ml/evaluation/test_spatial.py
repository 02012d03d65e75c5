"""Spatial patterns, and parts of one slide whose crops do not overlap."""

import numpy as np
import pytest
from scipy import stats

from ml.errors import InputError
from ml.evaluation.spatial import audit_overlap, block_folds, moran, moran_p


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def test_moran_is_its_formula(rng):
    xy, values = rng.uniform(0, 100, (40, 2)), rng.normal(size=(40, 3))
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    weights = np.zeros((40, 40))
    near = np.argsort(distance, axis=1)[:, :8]
    weights[np.arange(40)[:, None], near] = 1 / 8
    z = values - values.mean(0)
    expected = 40 / weights.sum() * np.einsum("ij,ig,jg->g", weights, z, z) / (z * z).sum(0)
    assert moran(values, xy) == pytest.approx(expected)


def test_noise_has_no_pattern_and_a_gradient_has(rng):
    xy = rng.uniform(0, 1000, (600, 2))
    noise = rng.normal(size=(600, 300))
    p = moran_p(moran(noise, xy), xy)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    wave = np.sin(xy[:, :1] / 100) + 0.3 * rng.normal(size=(600, 1))
    assert moran(wave, xy)[0] > 0.5 and moran_p(moran(wave, xy), xy)[0] < 1e-6
    assert np.isnan(moran(np.ones((600, 1)), xy)).all()


def test_blocks_leave_a_gap_of_one_crop(rng):
    xy = rng.uniform(0, 2000, (3000, 2))
    folds = block_folds(xy, 300.0, 112.0, 5)
    tested = []
    for number in range(5):
        train, test = folds.parts(number)
        assert audit_overlap(xy[train], xy[test], 112.0, "slide A") >= 112.0
        assert not set(train) & set(test) and len(train) > 500
        tested.append(test)
    assert np.array_equal(np.sort(np.concatenate(tested)), np.arange(3000))


def test_crops_that_overlap_are_refused(rng):
    xy = rng.uniform(0, 2000, (500, 2))
    with pytest.raises(InputError) as error:
        audit_overlap(xy[:400], xy[400:], 112.0, "slide A")
    assert error.value.code == "split.crops_overlap" and "slide A" in error.value.where


def test_a_slide_too_small_for_its_folds_is_refused(rng):
    with pytest.raises(InputError) as error:
        block_folds(rng.uniform(0, 100, (50, 2)), 300.0, 112.0, 5)
    assert error.value.code == "split.too_few_blocks"
