"""Curves, table, log-rank and hazard ratios against R's numbers and hand counts."""

import time as clock

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.datasets import load_lung, load_rossi, load_waltons
from scipy.optimize import minimize

from ml.errors import InputError
from ml.tasks.survival import kaplan_meier, risk_ticks

# Remission of leukaemia in weeks, 6-mercaptopurine against placebo (Gehan 1965; Freireich 1963);
# + is censored. In every textbook, with R's survival package as the reference.
MERCAPTOPURINE = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"


def parsed(*arms):
    texts = " ".join(arms).split()
    time = np.array([float(text.rstrip("+")) for text in texts])
    event = np.array([not text.endswith("+") for text in texts])
    return time, event, np.repeat(np.arange(len(arms)), [len(arm.split()) for arm in arms])


def leukaemia(ticks=None):
    time, event, arm = parsed(MERCAPTOPURINE, PLACEBO)
    return kaplan_meier(time, event, None, arm, labels=["6-MP", "placebo"], ticks=ticks)


def at(curve, month):
    return curve.survival[np.searchsorted(curve.time, month, side="right") - 1]


def test_curve_of_the_leukaemia_trial():
    drug, placebo = leukaemia().curves
    published = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    for week, survival in published.items():
        assert at(drug, week) == pytest.approx(survival, abs=5e-4)
    assert (drug.n, drug.events, drug.median) == (21, 9, 23)
    assert (placebo.n, placebo.events, placebo.median) == (21, 21, 8)
    assert placebo.survival[-1] == 0


def test_log_rank_and_hazard_ratio_of_the_leukaemia_trial():
    result = leukaemia()
    # R: survdiff chisq 16.79 on 1 df; coxph with Efron ties coef 1.572, se 0.412.
    assert result.log_rank.statistic == pytest.approx(16.79, abs=0.005)
    assert result.log_rank.df == 1
    (ratio,) = result.hazard_ratios
    assert (ratio.label, ratio.reference) == ("placebo", "6-MP")
    assert np.log(ratio.ratio) == pytest.approx(1.572, abs=5e-4)
    assert np.log(ratio.high / ratio.low) / (2 * 1.96) == pytest.approx(0.412, abs=5e-4)


def test_risk_table_counted_by_hand():
    table = leukaemia(ticks=[0, 6, 10, 23, 24]).table
    # Before week 6 nobody on the drug had left; at 10, three events and 6+ 9+ and the 7.
    assert table.at_risk.tolist() == [[21, 21, 15, 6, 5], [21, 12, 8, 1, 0]]
    assert table.events.tolist() == [[0, 0, 4, 8, 9], [0, 9, 13, 20, 21]]
    assert table.censored.tolist() == [[0, 0, 2, 7, 7], [0, 0, 0, 0, 0]]


def test_lung_cancer_by_sex_as_r_gives_it():
    lung = load_lung()
    result = kaplan_meier(
        lung.time, lung.status, None, lung.sex - 1, labels=["male", "female"],
        ticks=[0, 250, 500, 750, 1000],
    )  # fmt: skip
    assert result.table.at_risk.tolist() == [[138, 62, 20, 7, 2], [90, 53, 21, 3, 0]]
    assert [(c.n, c.events, c.median) for c in result.curves] == [(138, 112, 270), (90, 53, 426)]
    assert result.log_rank.statistic == pytest.approx(10.3, abs=0.05)
    assert result.log_rank.p == pytest.approx(0.00131, abs=5e-6)
    (ratio,) = result.hazard_ratios
    found = (ratio.ratio, ratio.low, ratio.high, ratio.p)
    assert found == pytest.approx((0.588, 0.4237, 0.816, 0.00149), abs=6e-5)


def cohort(seed, late):
    rng = np.random.default_rng(seed)
    n, groups = 120, 2 + seed % 3
    group = rng.integers(0, groups, n)
    hidden = rng.exponential(20 / (1 + 0.4 * group))
    limit = rng.uniform(1, 40, n)
    time = np.ceil(np.minimum(hidden, limit))  # whole months: many ties
    entry = np.where(rng.random(n) < 0.4, np.floor(time * rng.random(n) * 0.9), 0.0) * late
    return time, hidden <= limit, entry, group, [f"g{i}" for i in range(groups)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("late", [False, True])
def test_curves_are_the_product_over_counted_risk_sets(seed, late):
    time, event, entry, group, labels = cohort(seed, late)
    for index, curve in enumerate(kaplan_meier(time, event, entry, group, labels=labels).curves):
        mine = group == index
        t, e, start = time[mine], event[mine], entry[mine]
        for month in np.unique(t):
            steps = np.unique(t[e & (t <= month)])
            shares = [1 - (e & (t == s)).sum() / ((start < s) & (s <= t)).sum() for s in steps]
            assert at(curve, month) == pytest.approx(np.prod(shares), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_delayed_entry_is_compared_by_the_likelihood_ratio(seed):
    time, event, entry, group, labels = cohort(seed, True)
    time = time + np.random.default_rng(seed).random(len(time)) * 0.9  # no ties
    entry[0], time[0], event[0] = (
        0,
        0,
        True,
    )  # an event at 0, when those who entered at 0 were there
    result = kaplan_meier(time, event, entry, group, labels=labels)

    def unlikely(beta):
        hazard = np.exp(np.r_[0.0, beta])[group]
        risk = [hazard[((entry < t) | (entry == 0)) & (t <= time)].sum() for t in time[event]]
        return np.log(risk).sum() - np.log(hazard[event]).sum()

    best = minimize(unlikely, np.zeros(len(labels) - 1), tol=1e-10)
    assert [np.log(r.ratio) for r in result.hazard_ratios] == pytest.approx(best.x, abs=1e-3)
    assert result.log_rank.test == "likelihood-ratio"
    assert result.log_rank.df == len(labels) - 1
    expected = 2 * (unlikely(np.zeros(len(labels) - 1)) - best.fun)
    assert result.log_rank.statistic == pytest.approx(expected, abs=1e-4)
    assert all(ratio.ph_p is None for ratio in result.hazard_ratios)
    assert any("log-rank does not allow for delayed entry" in note for note in result.warnings)


def test_delayed_entry_without_events_in_a_group_has_no_test():
    time, event = [5, 6, 7, 8, 9, 10, 11, 12, 13], [1, 1, 0, 0, 0, 0, 1, 1, 0]
    entry = [0, 1, 2] * 3
    result = kaplan_meier(time, event, entry, np.repeat([0, 1, 2], 3), labels=list("abc"))
    assert result.log_rank is None
    assert any("No test over all groups" in note for note in result.warnings)


def test_band_and_medians_agree_with_lifelines_on_waltons():
    flies = load_waltons()
    control = flies[flies.group == "control"]
    (curve,) = kaplan_meier(control["T"], control["E"]).curves
    fit = KaplanMeierFitter().fit(control["T"], control["E"])
    band = fit.confidence_interval_survival_function_.reindex(curve.time, method="ffill")
    alive = curve.survival > 0
    assert curve.lower[alive] == pytest.approx(band.iloc[:, 0].to_numpy()[alive])
    assert curve.upper[alive] == pytest.approx(band.iloc[:, 1].to_numpy()[alive])
    assert curve.median == fit.median_survival_time_
    # The lower limit of the median is where the lower band falls to one half.
    assert curve.median_low == curve.time[np.flatnonzero(curve.lower <= 0.5)[0]]
    assert curve.median_low <= curve.median <= curve.median_high


def test_median_where_the_curve_is_exactly_one_half():
    # lifelines' logarithms put S(2) at 0.5000000000000001 and its median at 3.
    (curve,) = kaplan_meier([0, 1, 2, 2, 3, 4], [1, 1, 0, 1, 1, 1]).curves
    assert at(curve, 2) == pytest.approx(0.5)
    assert curve.median == 2


def test_left_truncation_by_hand():
    # A is watched from 1, B from 0, C from 4, D from 2, E from 6.5.
    time, event, entry = [3, 4, 5, 6, 7], [1, 1, 0, 1, 0], [1, 0, 4, 2, 6.5]
    result = kaplan_meier(time, event, entry, ticks=[0, 1, 2, 3, 4, 5, 6, 7])
    (curve,) = result.curves
    # At 3 A, B and D are at risk; at 4 B and D (C enters at 4, so it is at risk after 4).
    assert at(curve, 3) == pytest.approx(2 / 3)
    assert at(curve, 4) == pytest.approx(1 / 3)
    assert at(curve, 6) == 0
    assert result.table.at_risk.tolist() == [[1, 1, 2, 3, 2, 2, 1, 1]]
    assert result.table.entered.tolist() == [[1, 1, 2, 3, 3, 4, 4, 5]]
    assert any("reaches 0 at 6 months" in note for note in result.warnings)


def test_ignoring_entry_times_would_give_another_curve():
    time, event, entry = [3, 4, 5, 6, 7], [1, 1, 0, 1, 0], [1, 0, 4, 2, 6.5]
    (late,), (naive,) = (kaplan_meier(time, event, e).curves for e in (entry, None))
    assert at(late, 4) < at(naive, 4) == pytest.approx(3 / 5)


@pytest.mark.parametrize("seed", range(5))
def test_every_cell_of_the_table_adds_up(seed):
    rng = np.random.default_rng(seed)
    time = rng.integers(1, 60, 200).astype(float)
    entry = np.floor(time * rng.random(200) * (rng.random(200) < 0.3))
    group = rng.integers(0, 3, 200)
    table = kaplan_meier(
        time, rng.random(200) < 0.5, entry, group, labels=list("abc"), ticks=range(0, 61, 6)
    ).table
    assert (table.at_risk + table.censored + table.events == table.entered).all()
    for row, tick in np.ndindex(table.at_risk.shape):
        month = table.ticks[tick]
        mine = group == row
        counted = mine & (time >= month) & ((entry < month) | (entry == 0))
        assert table.at_risk[row, tick] == counted.sum()


def test_event_at_time_zero_counts_those_who_were_there():
    (curve,) = kaplan_meier([0, 1, 2, 3], [1, 1, 1, 0]).curves
    assert curve.time[:2].tolist() == [0, 0]
    assert curve.survival[:3].tolist() == pytest.approx([1, 0.75, 0.5])


def test_censored_at_an_event_time_was_at_risk_for_it():
    (curve,) = kaplan_meier([5, 5], [1, 0]).curves
    assert at(curve, 5) == pytest.approx(0.5)
    assert curve.censor_survival.tolist() == pytest.approx([0.5])


def test_stratum_without_events_has_no_hazard_ratio():
    time = [5, 6, 7, 8, 9, 10, 11, 12, 13]
    event = [1, 1, 0, 0, 0, 0, 1, 1, 0]
    result = kaplan_meier(time, event, None, [0, 0, 0, 1, 1, 1, 2, 2, 2], labels=list("abc"))
    none, some = result.hazard_ratios
    assert (none.ratio, none.note) == (None, "No event in 'b'.")
    # The others are as if b were not there.
    keep = [0, 1, 2, 6, 7, 8]
    alone = kaplan_meier(
        np.array(time)[keep], np.array(event)[keep], None, [0, 0, 0, 1, 1, 1], labels=["a", "c"]
    )
    b_was_at_risk = some.ratio != pytest.approx(alone.hazard_ratios[0].ratio)
    assert not b_was_at_risk


def test_strata_that_do_not_overlap_have_no_hazard_ratio():
    time = [1, 2, 3, 4, 11, 12, 13, 14]
    result = kaplan_meier(time, [1] * 8, None, [0] * 4 + [1] * 4, labels=["early", "late"])
    (ratio,) = result.hazard_ratios
    assert ratio.ratio is None and "overlap" in ratio.note
    assert result.log_rank.p < 0.01


def test_reference_can_be_chosen_and_inverts_the_ratio():
    time, event, arm = parsed(MERCAPTOPURINE, PLACEBO)
    labels = ["6-MP", "placebo"]
    (one,) = kaplan_meier(time, event, None, arm, labels=labels).hazard_ratios
    (other,) = kaplan_meier(time, event, None, arm, labels=labels, reference=1).hazard_ratios
    assert other.reference == "placebo"
    assert one.ratio * other.ratio == pytest.approx(1)


def test_violated_proportional_hazards_are_found():
    rng = np.random.default_rng(3)
    early = np.concatenate([rng.exponential(2, 100), 20 + rng.exponential(40, 100)])
    steady = rng.exponential(15, 200)
    time = np.concatenate([early, steady])
    result = kaplan_meier(
        time, np.ones(400), None, np.repeat([0, 1], 200), labels=["mixed", "steady"]
    )
    assert result.hazard_ratios[0].ph_p < 1e-4
    rossi = load_rossi()
    parole = kaplan_meier(rossi.week, rossi.arrest, None, rossi.fin, labels=["none", "aid"])
    assert parole.hazard_ratios[0].ph_p > 0.2


def test_empty_stratum_is_named_and_left_out():
    result = kaplan_meier([1, 2, 3, 4], [1] * 4, None, [0, 0, 2, 2], labels=["a", "b", "c"])
    assert [curve.label for curve in result.curves] == ["a", "c"]
    assert any("'b'" in note for note in result.warnings)


def test_small_strata_are_warned_of():
    notes = kaplan_meier([1, 2, 3], [1, 1, 0]).warnings
    assert any("3 patients, 2 events" in note for note in notes)


@pytest.mark.parametrize(
    ("code", "time", "event", "entry"),
    [
        ("survival.no_patients", [], [], None),
        ("survival.no_events", [1, 2], [0, 0], None),
        ("survival.times", [1, -2], [1, 0], None),
        ("survival.times", [1, np.nan], [1, 0], None),
        ("survival.times", [1, 2], [1, 0], [0, 2]),
        ("survival.times", [1, 2], [1, 0], [0, -1]),
    ],
)
def test_bad_input(code, time, event, entry):
    with pytest.raises(InputError) as caught:
        kaplan_meier(time, event, entry)
    assert caught.value.code == code
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("longest", "step", "last"), [(150, 24, 144), (60, 12, 60), (7.5, 1, 7), (24, 3, 24)]
)
def test_ticks_are_readable_months(longest, step, last):
    ticks = risk_ticks(longest)
    assert ticks[1] == step and ticks[-1] == last and len(ticks) <= 10


@pytest.mark.parametrize("longest", [0.01, 0.4, 2.5, 3, 100, 1000, 5000])
def test_ticks_cover_any_follow_up(longest):
    ticks = risk_ticks(longest)
    assert ticks[0] == 0 and 3 <= len(ticks) <= 21 and ticks[-1] <= longest * (1 + 1e-6)


def test_ten_thousand_patients_in_four_strata_take_150_ms():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 10_000)
    time, event = rng.exponential(40, 10_000), rng.random(10_000) < 0.6
    kaplan_meier(time[:50], event[:50], None, group[:50] % 2, labels=list("ab"))  # imports
    seconds = []
    for _ in range(5):
        began = clock.perf_counter()
        kaplan_meier(time, event, None, group, labels=list("abcd"), ratios=False)
        seconds.append(clock.perf_counter() - began)
    assert min(seconds) <= 0.150


def test_what_lifelines_warns_of_is_noted():
    rng = np.random.default_rng(0)
    group = np.r_[0, np.ones(11_999, int)]
    time, event = np.ceil(rng.exponential(40, 12_000)), np.r_[True, rng.random(11_999) < 0.6]
    result = kaplan_meier(time, event, None, group, labels=["one", "the rest"])
    assert any("very low variance" in note for note in result.warnings)
    assert result.hazard_ratios[0].ratio is not None
