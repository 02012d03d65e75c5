"""Comparing strata with lifelines: log-rank test, Cox hazard ratios, proportional hazards.

lifelines' log-rank test and Schoenfeld residuals take no entry times. Where somebody came under
observation late, the likelihood-ratio test of the Cox model stands in for the log-rank test, and
proportional hazards are not checked; both are said in the notes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LOG_RANK, LIKELIHOOD_RATIO = "log-rank", "likelihood-ratio"
LATE_ENTRY = "likelihood-ratio test; log-rank does not allow for delayed entry"
# Standard error of a log hazard ratio (one event in each of two strata: about 1.5) beyond which
# lifelines has only climbed a likelihood without a maximum until the gain was too small to see.
_NO_MAXIMUM = 10.0


@dataclass(frozen=True)
class LogRank:
    """Test over all strata: chi-squared statistic with `df` degrees of freedom.

    `test` names it: LOG_RANK, or with left truncation LIKELIHOOD_RATIO (of the Cox model).
    """

    statistic: float
    df: int
    p: float
    test: str = LOG_RANK

    @property
    def explained(self) -> str:
        """The name with the reason for it, where it is not the log-rank test."""
        return LATE_ENTRY if self.test == LIKELIHOOD_RATIO else f"{self.test} test"


@dataclass(frozen=True)
class HazardRatio:
    """Cox (Efron ties) hazard ratio of a stratum against the reference, 95 % Wald interval.

    `ph_p` is the p-value of the scaled Schoenfeld residuals against Kaplan–Meier time (Grambsch &
    Therneau 1994): small means that the hazards are not proportional; None with left truncation.
    Where the ratio cannot be estimated the numbers are None and `note` says why.
    """

    label: str
    reference: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    ph_p: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """`test` is None where lifelines cannot give one; `notes` say why and what else to know."""

    test: LogRank | None
    ratios: tuple[HazardRatio, ...]
    notes: tuple[str, ...] = ()


def log_rank(time: Floats, event: Bools, group: Ints) -> LogRank:
    """Log-rank test of strata 0…g-1, all of which everybody entered at time 0."""
    from lifelines.statistics import multivariate_logrank_test

    found = multivariate_logrank_test(time, group, event)
    return LogRank(float(found.test_statistic), int(group.max()), float(found.p_value))


def cox(
    time: Floats,
    event: Bools,
    entry: Floats,
    group: Ints,
    labels: tuple[str, ...],
    reference: int = 0,
) -> Comparison:
    """Cox model whose only covariate is the stratum; ratios in the order of `labels`.

    `test` is the model's likelihood-ratio test where somebody entered late, else None.
    """
    total = np.bincount(group[event], minlength=len(labels))
    base, late = labels[reference], bool(np.any(entry > 0))
    ratios = {
        g: HazardRatio(
            labels[g], base, note=f"No event in {(labels[g] if total[reference] else base)!r}."
        )
        for g in range(len(labels))
        if g != reference
    }
    fitted = [g for g in ratios if total[g] > 0 and total[reference] > 0]
    no_test = ("No test over all groups: with delayed entry it needs a hazard ratio in each.",)
    if not fitted:
        return Comparison(None, tuple(ratios.values()), no_test if late else ())
    # A stratum without events has hazard ratio 0 and drops out of the others' likelihood.
    rows = np.isin(group, [reference, *fitted])
    frame = pd.DataFrame({f"stratum {g}": (group[rows] == g).astype(float) for g in fitted})
    frame = frame.assign(time=time[rows], event=event[rows])
    if late:
        # lifelines counts at risk after the entry; who entered at 0 was there at 0 too.
        frame = frame.assign(entry=np.where(entry > 0, entry, -1.0)[rows])
    model, said = _fit(frame, late)
    for g in fitted:
        ratios[g] = _ratio(model, f"stratum {g}", ratios[g])
    if any(ratios[g].ratio is None for g in fitted):
        # Their notes say in words what lifelines' warnings say in numbers.
        return Comparison(None, tuple(ratios.values()), no_test if late else ())
    if not late:
        for g, p in zip(fitted, _schoenfeld_p(model, frame), strict=True):
            ratios[g] = replace(ratios[g], ph_p=p)
        return Comparison(None, tuple(ratios.values()), said)
    notes = (
        *said,
        f"Groups are compared by the {LATE_ENTRY}. Whether the hazards are proportional was not "
        "checked: Schoenfeld residuals do not allow for it either.",
    )
    if len(fitted) < len(ratios):
        return Comparison(None, tuple(ratios.values()), (*said, *no_test))
    found = model.log_likelihood_ratio_test()
    test = LogRank(float(found.test_statistic), len(fitted), float(found.p_value), LIKELIHOOD_RATIO)
    return Comparison(test, tuple(ratios.values()), notes)


def _fit(frame: pd.DataFrame, late: bool) -> tuple[Any, tuple[str, ...]]:
    """lifelines' model, None where it does not converge, and what it warned of."""
    from lifelines import CoxPHFitter
    from lifelines.exceptions import (
        ConvergenceError,
        ConvergenceWarning,
        StatisticalWarning,
    )

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = CoxPHFitter().fit(frame, "time", "event", entry_col="entry" if late else None)
        except ConvergenceError:
            model = None
    notes = []
    for one in caught:
        if issubclass(one.category, (StatisticalWarning, ConvergenceWarning)):
            notes.append(f"lifelines on the Cox model: {' '.join(str(one.message).split())}")
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return model, tuple(dict.fromkeys(notes))


def _ratio(model: Any, column: str, empty: HazardRatio) -> HazardRatio:
    row = None if model is None else model.summary.loc[column]
    if row is None or not row["se(coef)"] < _NO_MAXIMUM:
        return replace(empty, note="The strata overlap too little in time for a Cox model.")
    return replace(
        empty,
        ratio=float(row["exp(coef)"]),
        low=float(row["exp(coef) lower 95%"]),
        high=float(row["exp(coef) upper 95%"]),
        p=float(row["p"]),
        note="",
    )


def _schoenfeld_p(model: Any, frame: pd.DataFrame) -> list[float]:
    """p per covariate; NaN where all events came at one time, which has no trend."""
    from lifelines.statistics import proportional_hazard_test

    if frame["time"][frame["event"]].nunique() < 2:
        return [float("nan")] * len(model.params_)
    found = proportional_hazard_test(model, frame, time_transform="km")
    return [float(p) for p in np.atleast_1d(found.p_value)]
