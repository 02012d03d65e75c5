"""Kaplan–Meier curves, the numbers-at-risk table, log-rank test and Cox hazard ratios.

Conventions, the same everywhere in this package:

- Times are months since the endpoint's time zero; `entry` > 0 is left truncation.
- A patient is at risk at time t when ``entry < t <= time`` ("just before t"). A patient who entered
  at 0 was there from the start, so at t = 0 too.
- Censorings at the time of an event come after the event (R's and lifelines' convention).

Curves and their bands come from lifelines, and so does the comparison (`survival_compare`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ml.errors import InputError
from ml.tasks.survival_compare import (
    Bools,
    Floats,
    HazardRatio,
    Ints,
    LogRank,
    cox,
    log_rank,
)

FEW_PATIENTS = 10
FEW_EVENTS = 5
_EXACT = 1e-9  # the product of lifelines' logarithms may miss exactly one half by this much


@dataclass(frozen=True)
class Curve:
    """One stratum's Kaplan–Meier estimate.

    `time`, `survival`, `lower` and `upper` are (k,) step points beginning at (0, 1); survival is a
    share, 0 to 1; the 95 % band is log-log (Kalbfleisch & Prentice 1980). `median` is the smallest
    time at which survival is 0.5 or less, its interval after Brookmeyer & Crowley (1982); None
    where the curve or its band does not come down to 0.5. From `thin_from` on fewer than a tenth of
    the stratum, or fewer than 5 patients, are at risk (Pocock et al. 2002): the tail to distrust.
    """

    label: str
    n: int
    events: int
    time: Floats
    survival: Floats
    lower: Floats
    upper: Floats
    censor_time: Floats
    censor_survival: Floats
    median: float | None
    median_low: float | None
    median_high: float | None
    thin_from: float


@dataclass(frozen=True)
class RiskTable:
    """The table under the curves, KMunicate's layout (Morris et al. 2019, BMJ Open 9:e030215).

    Arrays are (strata, ticks). `at_risk` counts just before the tick; `censored` and `events` count
    what happened before the tick, so that at_risk + censored + events = entered in every cell.
    """

    ticks: Floats
    labels: tuple[str, ...]
    entered: Ints
    at_risk: Ints
    censored: Ints
    events: Ints


@dataclass(frozen=True)
class Steps:
    """One stratum's life table (k,): every distinct time at which somebody left, and at risk just
    before it, events and censorings at it."""

    time: Floats
    at_risk: Ints
    events: Ints
    censored: Ints


@dataclass(frozen=True)
class KaplanMeierResult:
    """Everything read off one stratified cohort; strata in the order of `curves`."""

    curves: tuple[Curve, ...]
    steps: tuple[Steps, ...]
    table: RiskTable
    log_rank: LogRank | None
    hazard_ratios: tuple[HazardRatio, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def n(self) -> int:
        return sum(curve.n for curve in self.curves)

    @property
    def events(self) -> int:
        return sum(curve.events for curve in self.curves)


def kaplan_meier(
    time: npt.ArrayLike,
    event: npt.ArrayLike,
    entry: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    *,
    labels: Sequence[str] = ("All patients",),
    ticks: npt.ArrayLike | None = None,
    reference: int = 0,
    ratios: bool = True,
) -> KaplanMeierResult:
    """Estimate one curve per group and compare the groups.

    Args:
        time: (n,) months from time zero to event or censoring, ≥ 0.
        event: (n,) true where the event was seen at `time`.
        entry: (n,) months at which observation began, < time (or 0); None: 0 for everybody.
        groups: (n,) index into `labels`; None: everybody in the first.
        labels: the strata in display order; those without a patient are left out.
        ticks: months at which the table counts; None: `risk_ticks` of the longest follow-up.
        reference: index into `labels` of the hazard ratios' reference.
        ratios: whether to fit the Cox model, which takes longer than all the rest; with entry times
            there is no test without it.

    Raises:
        InputError: survival.times, survival.no_patients, survival.no_events.
    """
    data = _checked(time, event, entry, groups, len(labels))
    present = [index for index in range(len(labels)) if np.any(data.group == index)]
    names = tuple(labels[index] for index in present)
    data = data.relabelled(present)
    at = risk_ticks(float(data.time.max())) if ticks is None else np.asarray(ticks, np.float64)
    curves = tuple(_curve(data.of(index), name) for index, name in enumerate(names))
    steps = tuple(_steps(data.of(index)) for index in range(len(names)))
    notes = _warnings(curves, data, [labels[i] for i in range(len(labels)) if i not in present])
    table = _risk_table(data, names, at)
    if len(names) == 1:
        return KaplanMeierResult(curves, steps, table, None, (), notes)
    test = None if data.truncated else log_rank(data.time, data.event, data.group)
    if not ratios:
        return KaplanMeierResult(curves, steps, table, test, (), notes)
    base = present.index(reference) if reference in present else 0
    model = cox(data.time, data.event, data.entry, data.group, names, base)
    return KaplanMeierResult(
        curves, steps, table, test or model.test, model.ratios, (*notes, *model.notes)
    )


def at_risk(times: Floats, entry: Floats, time: Floats) -> Ints:
    """How many of the patients (entry, time) are at risk just before each of `times`.

    At risk at t: entry < t ≤ time; who entered at 0 counts from t = 0 on.
    """
    left = np.searchsorted(np.sort(time), times, side="left")
    late = np.sort(entry[entry > 0])
    not_yet = len(late) - np.searchsorted(late, times, side="left")
    return np.asarray(len(time) - left - not_yet, np.int64)


@dataclass(frozen=True)
class _Data:
    time: Floats
    event: Bools
    entry: Floats
    group: Ints

    def of(self, index: int) -> _Data:
        rows = self.group == index
        return _Data(self.time[rows], self.event[rows], self.entry[rows], self.group[rows])

    def relabelled(self, present: list[int]) -> _Data:
        return _Data(self.time, self.event, self.entry, np.searchsorted(present, self.group))

    @property
    def truncated(self) -> bool:
        return bool(np.any(self.entry > 0))


def _checked(
    time: npt.ArrayLike,
    event: npt.ArrayLike,
    entry: npt.ArrayLike | None,
    groups: npt.ArrayLike | None,
    n_labels: int,
) -> _Data:
    times = np.asarray(time, np.float64)
    events = np.asarray(event, np.bool_)
    entries = np.zeros_like(times) if entry is None else np.asarray(entry, np.float64)
    group = np.zeros(len(times), np.int64) if groups is None else np.asarray(groups, np.int64)
    if not len(times):
        raise InputError(
            "survival.no_patients",
            "cohort",
            "No patient is left to analyse.",
            "Read the list of excluded patients and loosen what excludes them.",
        )
    bad = ~np.isfinite(times) | (times < 0) | ~np.isfinite(entries) | (entries < 0)
    bad |= (entries >= times) & (entries > 0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            "survival.times",
            f"patient at position {row}",
            f"Entry {entries[row]:g} and time {times[row]:g} leave no time under observation.",
            "Give months ≥ 0 with entry before time.",
        )
    if not events.any():
        raise InputError(
            "survival.no_events",
            "cohort",
            "Nobody in this cohort had the event.",
            "Choose another endpoint, or lengthen the horizon.",
        )
    if group.min() < 0 or group.max() >= n_labels:
        raise ValueError("groups must index labels")
    return _Data(times, events, entries, group)


def _curve(data: _Data, label: str) -> Curve:
    from lifelines import KaplanMeierFitter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lifelines warns of an empty risk set; so do we, in words
        fit = KaplanMeierFitter(alpha=0.05).fit(
            data.time, data.event, entry=data.entry if data.truncated else None
        )
    time = fit.survival_function_.index.to_numpy(np.float64)
    survival = np.clip(fit.survival_function_.to_numpy(np.float64)[:, 0], 0.0, 1.0)
    band = fit.confidence_interval_.to_numpy(np.float64)
    if time[0] > 0 or survival[0] < 1:  # everybody entered late, or a death at time 0
        time, survival = np.r_[0.0, time], np.r_[1.0, survival]
        band = np.vstack([[1.0, 1.0], band])
    # The band is undefined where the curve is 0; it keeps its last value there, as in R's plots.
    lower, upper = (_forward_filled(band[:, side]) for side in (0, 1))
    keep = np.r_[True, np.diff(survival) != 0] | (time == time[-1])
    censored = np.sort(data.time[~data.event])
    at = np.clip(np.searchsorted(time, censored, side="right") - 1, 0, None)
    median, low, high = (_crosses_half(time, values) for values in (survival, lower, upper))
    return Curve(
        label=label,
        n=len(data.time),
        events=int(data.event.sum()),
        time=time[keep],
        survival=survival[keep],
        lower=lower[keep],
        upper=upper[keep],
        censor_time=censored,
        censor_survival=survival[at],
        median=median,
        median_low=low,
        median_high=high,
        thin_from=_thin_from(data),
    )


def _thin_from(data: _Data) -> float:
    """Time after which the risk set stays below a tenth of the stratum, or below 5."""
    leaving = np.unique(data.time)
    enough = at_risk(leaving, data.entry, data.time) >= max(5.0, 0.1 * len(data.time))
    return float(leaving[np.flatnonzero(enough)[-1]]) if enough.any() else 0.0


def _forward_filled(values: Floats) -> Floats:
    filled = values.copy()
    for index in np.flatnonzero(~np.isfinite(filled)):
        filled[index] = filled[index - 1] if index else 1.0
    return filled


def _crosses_half(time: Floats, survival: Floats) -> float | None:
    below = np.flatnonzero(survival <= 0.5 + _EXACT)
    return float(time[below[0]]) if len(below) else None


def _steps(data: _Data) -> Steps:
    time, of = np.unique(data.time, return_inverse=True)
    events = np.bincount(of, weights=data.event).astype(np.int64)
    return Steps(time, at_risk(time, data.entry, data.time), events, np.bincount(of) - events)


def _risk_table(data: _Data, labels: tuple[str, ...], ticks: Floats) -> RiskTable:
    shape = (len(labels), len(ticks))
    risk, censored, events = (np.zeros(shape, np.int64) for _ in range(3))
    for index in range(len(labels)):
        rows = data.of(index)
        risk[index] = at_risk(ticks, rows.entry, rows.time)
        seen, lost = np.sort(rows.time[rows.event]), np.sort(rows.time[~rows.event])
        events[index] = np.searchsorted(seen, ticks, side="left")
        censored[index] = np.searchsorted(lost, ticks, side="left")
    return RiskTable(ticks, labels, risk + censored + events, risk, censored, events)


_MONTHS = (1.0, 2.0, 3.0, 6.0, 12.0, 24.0, 36.0, 60.0, 120.0)


def risk_ticks(longest: float, most: int = 9) -> Floats:
    """Months at which the table counts: from 0 in equal, readable steps to `longest` or just below.

    Steps are 1, 2, 3, 6 or 12 months and their round multiples, so that years stay years; shorter
    follow-up has steps of a power of ten of a month.
    """
    if longest >= 3:
        step = next((months for months in _MONTHS if longest / months <= most), _MONTHS[-1])
    else:
        step = 10.0 ** float(np.floor(np.log10(max(longest, 1e-6) / 2)))
    while longest / step > most:
        step *= 2
    return np.arange(0.0, longest + step * 1e-9, step)


def _warnings(curves: tuple[Curve, ...], data: _Data, empty: list[str]) -> tuple[str, ...]:
    notes = [f"No patient in {label!r}: it is not drawn." for label in empty]
    for curve in curves:
        if curve.n < FEW_PATIENTS or curve.events < FEW_EVENTS:
            notes.append(
                f"Too few to rely on in {curve.label!r}: {curve.n} patients, {curve.events} events."
            )
        if data.truncated and curve.survival[-1] == 0 and len(curve.time) > 1:
            gone = float(curve.time[np.argmax(curve.survival == 0)])
            if np.any(data.time[data.group == curves.index(curve)] > gone):
                notes.append(
                    f"The curve of {curve.label!r} reaches 0 at {gone:g} months because everybody "
                    "then at risk had the event; patients who entered later cannot raise it."
                )
    return tuple(notes)
