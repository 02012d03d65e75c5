"""From a cohort and a question to a Kaplan–Meier analysis, with everyone left out accounted for.

The web page and `past trial` both come through `analyse`, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml.errors import InputError
from ml.tasks.survival import KaplanMeierResult, kaplan_meier
from ml.tasks.survival_strata import Cut, Strata, stratify_levels, stratify_number

MEASURED, PREDICTED, CLINICAL, RISK = "measured", "predicted", "clinical", "risk"


@dataclass(frozen=True)
class Stratifier:
    """What divides the cohort. `model` names the model version behind predicted or risk values."""

    source: str
    name: str
    label: str
    unit: str = ""
    numeric: bool = True
    levels: tuple[str, ...] = ()
    table: str = ""
    model: str = ""


@dataclass(frozen=True)
class Question:
    """What is asked of a cohort. Months since time zero; `horizon`, `landmark` None: not used.

    Follow-up is censored at the horizon. With a landmark only patients still under observation
    without the event at that month are compared, and the clock starts there (Anderson et al. 1983).
    `causes` None: any cause is the event; else those of the endpoint's causes, named, are the event
    and the others censor. `trained_on` counts patients in the cohort whose predicted values come
    from a model that was trained on them.
    """

    study: str
    endpoint: str
    endpoint_label: str
    time_zero: str
    stratifier: Stratifier | None = None
    cut: Cut = Cut.NONE
    value: float | None = None
    chosen_levels: tuple[str, ...] = ()
    horizon: float | None = None
    landmark: float | None = None
    causes: tuple[str, ...] | None = None
    synthetic: bool = False
    trained_on: int = 0


@dataclass(frozen=True)
class Exclusion:
    """Patients left out for one reason, by their codes."""

    reason: str
    patients: tuple[str, ...]


@dataclass(frozen=True)
class Analysis:
    question: Question
    result: KaplanMeierResult
    strata: Strata
    exclusions: tuple[Exclusion, ...]
    n_cohort: int
    notes: tuple[str, ...]


def analyse(
    question: Question,
    cohort: pd.DataFrame,
    exclusions: Sequence[Exclusion] = (),
    ticks: Sequence[float] | None = None,
) -> Analysis:
    """Exclude, restrict, stratify, estimate.

    Args:
        question: what is asked.
        cohort: one row per patient: patient (str), entry, time (months; NaN: no outcome), event
            (bool), and value (number or text; missing allowed) if the question has a stratifier.
        exclusions: patients that were left out before, for the account.
        ticks: months at which the table counts; None: chosen by the follow-up.

    Raises:
        InputError: survival.horizon, survival.landmark, and those of `stratify_*`, `kaplan_meier`.
    """
    _check(question)
    out = [item for item in exclusions if item.patients]
    n_cohort = len(cohort) + sum(len(item.patients) for item in out)

    def drop(frame: pd.DataFrame, rows: pd.Series, reason: str) -> pd.DataFrame:
        if rows.any():
            out.append(Exclusion(reason, tuple(frame.loc[rows, "patient"].astype(str))))
        return frame[~rows]

    frame = drop(cohort, cohort["time"].isna(), f"No {question.endpoint} outcome recorded")
    frame = drop(
        frame,
        (frame["entry"] >= frame["time"]) & (frame["entry"] > 0),
        "No time under observation (entry at the time of the outcome)",
    )
    if question.landmark:
        frame = drop(
            frame,
            frame["time"] <= question.landmark,
            f"Event or end of follow-up before the landmark at {question.landmark:g} months",
        )
        frame = frame.assign(
            time=frame["time"] - question.landmark,
            entry=np.maximum(frame["entry"] - question.landmark, 0.0),
        )
    if question.horizon:
        end = question.horizon - (question.landmark or 0.0)
        frame = drop(
            frame,
            frame["entry"] >= end,
            f"Came under observation after the horizon of {question.horizon:g} months",
        )
        frame = frame.assign(
            event=frame["event"].astype(bool) & (frame["time"] <= end),
            time=np.minimum(frame["time"], end),
        )
    if question.stratifier is not None:
        missing = frame["value"].isna() | (frame["value"].astype(str) == "")
        frame = drop(frame, missing, f"{question.stratifier.label} missing")
    if frame.empty:
        why = "; ".join(f"{len(e.patients)}: {e.reason}" for e in out) or "the cohort is empty"
        raise InputError(
            "survival.no_patients",
            "cohort",
            f"Nobody of {n_cohort} patients is left to analyse ({why}).",
            "Loosen what excludes them, or choose another stratifier.",
        )
    strata = _strata(question, frame)
    if (strata.group < 0).any():
        frame = drop(frame, pd.Series(strata.group < 0, frame.index), "Level not chosen")
    group = strata.group[strata.group >= 0]
    result = kaplan_meier(
        frame["time"].to_numpy(float),
        frame["event"].to_numpy(bool),
        frame["entry"].to_numpy(float),
        group,
        labels=strata.labels,
        ticks=ticks,
    )
    notes = (*strata.notes, *result.warnings, *_reading_notes(question, strata, result))
    return Analysis(question, result, strata, tuple(out), n_cohort, notes)


def _check(question: Question) -> None:
    for name in ("horizon", "landmark"):
        months = getattr(question, name)
        if months is not None and not (np.isfinite(months) and months > 0):
            raise InputError(
                f"survival.{name}",
                name,
                f"{months:g} months cannot be a {name}.",
                "Give a number of months above 0, or leave it empty.",
            )
    if question.horizon and question.landmark and question.landmark >= question.horizon:
        raise InputError(
            "survival.landmark",
            "landmark",
            f"The landmark ({question.landmark:g}) is not before the horizon "
            f"({question.horizon:g} months).",
            "Choose an earlier landmark or a later horizon.",
        )


def _strata(question: Question, frame: pd.DataFrame) -> Strata:
    stratifier = question.stratifier
    if stratifier is None:
        return Strata(("All patients",), np.zeros(len(frame), np.int64))
    if stratifier.numeric:
        return stratify_number(
            frame["value"].to_numpy(float),
            question.cut,
            value=question.value,
            # "years" belongs in a label; the unit of expression does in the methods alone.
            unit=stratifier.unit if stratifier.source == CLINICAL else "",
        )
    if question.cut is not Cut.LEVELS:
        raise InputError(
            "survival.cut",
            "cut",
            f"{stratifier.label} is a category and cannot be divided by {question.cut.value!r}.",
            "Use levels.",
        )
    return stratify_levels(
        frame["value"].astype(str).tolist(), stratifier.levels, chosen=question.chosen_levels
    )


def _reading_notes(
    question: Question, strata: Strata, result: KaplanMeierResult
) -> tuple[str, ...]:
    notes = []
    if any(cutoff.from_data for cutoff in strata.cutoffs):
        notes.append(
            "The cut-off was taken from these same patients: it describes this cohort and needs "
            "confirmation in another."
        )
    poor = [h.label for h in result.hazard_ratios if h.ph_p is not None and h.ph_p < 0.05]
    if poor:
        notes.append(
            "The hazards are not proportional (Schoenfeld p < 0.05) for "
            f"{', '.join(poor)}: the hazard ratio averages over the follow-up."
        )
    if question.trained_on:
        notes.append(
            f"{question.trained_on} patients were among those the model was trained on: their "
            "predicted values are not independent of what it was taught."
        )
    if question.causes is not None:
        notes.append(
            "Other causes are treated as censored: these are cause-specific curves, and 1 − "
            "survival overstates the share of patients who will have the event."
        )
    return tuple(notes)
