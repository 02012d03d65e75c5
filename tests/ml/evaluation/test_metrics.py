"""Metrics against independent implementations and known truths."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge as SklearnRidge

from ml.errors import InputError
from ml.evaluation import metrics
from ml.evaluation.audit import Unit, audit
from ml.evaluation.ridge import Solver, Sums, choose, minus, scores


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_correlations_agree_with_scipy(rng):
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 4)).round(1)
    y[:, 1] += x[:, 1]
    for gene in range(4):
        assert metrics.pearson(x, y)[gene] == pytest.approx(
            stats.pearsonr(x[:, gene], y[:, gene])[0]
        )
        assert metrics.spearman(x, y)[gene] == pytest.approx(
            stats.spearmanr(x[:, gene], y[:, gene])[0]
        )


def test_a_constant_predictor_correlates_with_nothing(rng):
    measured = rng.normal(size=(40, 3))
    constant = np.broadcast_to(np.float32([0.1, 5.3, 1e3]), (40, 3))
    assert np.array_equal(metrics.pearson(constant, measured), np.zeros(3))
    assert np.isnan(metrics.pearson(measured, constant)).all()


def test_differences_between_slides_do_not_count(rng):
    slide = np.repeat([0, 1], 200)
    predicted = slide[:, None] * 10.0 + rng.normal(size=(400, 1))
    measured = slide[:, None] * 10.0 + rng.normal(size=(400, 1))
    assert metrics.pearson(predicted, measured)[0] > 0.9
    assert abs(metrics.within_groups(predicted, measured, slide)[0]) < 0.15


def test_split_half_ceiling_is_what_the_truth_reaches(rng):
    rate = rng.gamma(2.0, 1.5, size=(4000, 1))
    filler = np.full((4000, 1), 500)
    counts = np.hstack([rng.poisson(rate), filler])
    totals = counts.sum(1).astype(float)
    reachable = metrics.split_half_ceiling(counts, totals, np.zeros(4000), seed=1)[0]
    expression = np.log1p(counts[:, :1] * 1e4 / totals[:, None])
    truth = np.log1p(rate * 1e4 / totals[:, None])
    assert reachable == pytest.approx(metrics.pearson(truth, expression)[0], abs=0.05)


def test_noise_has_no_ceiling(rng):
    counts = rng.poisson(1.0, size=(4000, 2))
    ceiling = metrics.split_half_ceiling(counts, np.full(4000, 500.0), np.zeros(4000), seed=1)
    assert (ceiling < 0.25).all()


def test_ridge_from_sums_equals_ridge_on_rows(rng):
    x, y = rng.normal(size=(80, 5)), rng.normal(size=(80, 3))
    parts = [Sums.over([(x[:30], y[:30]), (x[30:50], y[30:50])]), Sums.over([(x[50:], y[50:])])]
    ridge = Solver(parts[0] + parts[1]).ridge(0.5)
    reference = SklearnRidge(alpha=0.5 * 80).fit(x, y)
    assert ridge.predict(x) == pytest.approx(reference.predict(x), abs=1e-9)
    assert scores(ridge, parts[1]) == pytest.approx(
        metrics.pearson(ridge.predict(x[50:]), y[50:]), abs=1e-6
    )
    rest = minus(parts[0] + parts[1], parts[1])
    assert rest.xy == pytest.approx(parts[0].xy)


def test_leaving_parts_out_prefers_shrinkage_for_noise_and_none_for_signal(rng):
    x = rng.normal(size=(120, 40))
    weights = rng.normal(size=(40, 10))

    def parts(y):
        return [Sums.over([(x[i : i + 40], y[i : i + 40])]) for i in (0, 40, 80)]

    assert choose(parts(x @ weights)).penalty <= 0.1
    noisy = x[:, :2] @ weights[:2] + 6 * rng.normal(size=(120, 10))
    assert choose(parts(noisy)).penalty >= 0.3


def units(*rows):
    return [Unit(code, patient, part, code) for code, patient, part in rows]


def test_audit_says_what_is_held_out():
    assert audit(units(("a", "P1", "train"), ("b", "P2", "test"))) == "held-out patients"
    same = audit(units(("a", "P1", "train"), ("b", "P1", "test")))
    assert same == "held-out section of the same patient"


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ((("a", "P1", "train"), ("b", "P1", "test"), ("c", "P2", "train")), "patient_in_two_parts"),
        ((("a", "P1", "test"),), "no_training"),
        ((("a", "P1", "train"), ("b", "P2", "later")), "part"),
        ((("a", "P1", "train"), ("a", "P1", "test")), "same_slide"),
    ],
)
def test_audit_refuses_leaks(rows, code):
    with pytest.raises(InputError) as caught:
        audit(units(*rows))
    assert caught.value.code == f"split.{code}"
