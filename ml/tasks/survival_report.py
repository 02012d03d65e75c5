"""A Kaplan–Meier analysis in words, as JSON, and as CSV. Figures are in `survival_figure`."""

from __future__ import annotations

import csv
import io
import math
from importlib.metadata import version
from typing import Any

import numpy as np

from ml.tasks.survival import Curve
from ml.tasks.survival_analysis import PREDICTED, RISK, Analysis, Question
from ml.tasks.survival_compare import HazardRatio
from ml.tasks.survival_strata import Cut, shown_number

RUO = "Research use only – not for diagnosis or treatment"


def format_p(p: float | None) -> str:
    """Two significant digits, four decimals at most, or "< 0.0001"."""
    if p is None or math.isnan(p):
        return "–"
    if p < 0.0001:
        return "< 0.0001"
    if p < 0.01:
        return f"{p:.4f}"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.3f}"


def p_phrase(p: float | None) -> str:
    """ "p = 0.024" or "p < 0.0001"."""
    shown = format_p(p)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def format_months(months: float | None) -> str:
    return "not reached" if months is None else f"{months:.1f}"


def format_median(curve: Curve) -> str:
    """ "42.1 (31.0–58.4)" months; "–" for an open end of the interval."""
    if curve.median is None:
        return "not reached"
    low, high = ("–" if m is None else f"{m:.1f}" for m in (curve.median_low, curve.median_high))
    return f"{curve.median:.1f} ({low} to {high})"


def format_ratio(ratio: HazardRatio) -> str:
    """ "1.62 (1.11 to 2.37)", or the reason why there is none."""
    if ratio.ratio is None or ratio.low is None or ratio.high is None:
        return ratio.note
    return f"{ratio.ratio:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def time_axis(question: Question) -> str:
    if question.landmark:
        landmark = f"{question.landmark:g} months after {question.time_zero}"
        return f"Months since the landmark ({landmark})"
    return f"Months since {question.time_zero}"


def labels(question: Question) -> list[str]:
    """What every figure and export must say about where it comes from."""
    said = [RUO]
    if question.synthetic:
        said.append("Synthetic data")
    stratifier = question.stratifier
    if stratifier is not None and stratifier.source in (PREDICTED, RISK):
        said.append(f"Predicted by {stratifier.model}" if stratifier.model else "Predicted")
    if question.trained_on:
        said.append(f"Includes {question.trained_on} training patients of the model")
    return said


def title(question: Question) -> str:
    by = question.stratifier
    return question.endpoint_label if by is None else f"{question.endpoint_label} by {by.label}"


def methods(analysis: Analysis) -> str:
    """A paragraph to paste into a paper: what was done, with the numbers that came out."""
    question, result = analysis.question, analysis.result
    parts = [
        f"{question.endpoint_label} ({question.endpoint}; months since {question.time_zero}) of "
        f"{result.n} patients with {result.events} events was estimated by the Kaplan–Meier method "
        f"with log-log 95 % confidence intervals{_split(analysis)}."
    ]
    if question.landmark:
        parts.append(
            f"Patients under observation without the event at {question.landmark:g} months were "
            "compared from that landmark on."
        )
    if question.horizon:
        parts.append(f"Follow-up was censored at {question.horizon:g} months.")
    if question.causes is not None:
        parts.append(f"The event was {' or '.join(question.causes)}; other causes censor.")
    if np.any(analysis.result.table.entered[:, 0] < [c.n for c in result.curves]):
        parts.append("Patients count as at risk from their entry on (left truncation).")
    if result.log_rank is not None:
        test = result.log_rank
        parts.append(
            f"Groups were compared by the {test.explained} (χ² = {test.statistic:.2f}, "
            f"{test.df} df, {p_phrase(test.p)})."
        )
    parts += _hazards(analysis)
    if analysis.exclusions:
        why = "; ".join(f"{len(e.patients)}: {e.reason}" for e in analysis.exclusions)
        n_out = sum(len(exclusion.patients) for exclusion in analysis.exclusions)
        parts.append(f"Of {analysis.n_cohort} patients {n_out} were left out ({why}).")
    parts.append(f"Curves and comparisons by lifelines {version('lifelines')}.")
    parts.append(f"{'. '.join(labels(question))}.")
    return " ".join(parts)


def _hazards(analysis: Analysis) -> list[str]:
    known = [ratio for ratio in analysis.result.hazard_ratios if ratio.ratio is not None]
    if not known:
        return []
    values = "; ".join(
        f"{ratio.label} {ratio.ratio:.2f} ({ratio.low:.2f} to {ratio.high:.2f}, {p_phrase(ratio.p)}"
        f"{'' if ratio.ph_p is None else f', Schoenfeld {p_phrase(ratio.ph_p)}'})"
        for ratio in known
    )
    checked = any(ratio.ph_p is not None for ratio in known)
    how = "; proportional hazards checked by scaled Schoenfeld residuals" if checked else ""
    return [
        f"Hazard ratios against {known[0].reference} (95 % CI; Cox regression, Efron ties"
        f"{how}): {values}."
    ]


def _split(analysis: Analysis) -> str:
    stratifier = analysis.question.stratifier
    if stratifier is None:
        return ""
    origins = {"clinical": "", "risk": ", predicted out of fold"}
    origin = origins.get(stratifier.source, f", {stratifier.source}")
    if stratifier.model:
        origin += f" by {stratifier.model}"
    if stratifier.table and stratifier.source == "measured":
        origin += f" ({stratifier.table})"
    if analysis.question.cut is Cut.LEVELS or not analysis.strata.cutoffs:
        return f", stratified by {stratifier.label}{origin}"
    cutoffs = analysis.strata.cutoffs
    unit = f" {stratifier.unit}" if stratifier.unit else ""
    where = ", ".join(f"{cutoff.name} {shown_number(cutoff.value, 4)}{unit}" for cutoff in cutoffs)
    taken = ", taken from these data" if cutoffs[0].from_data else ""
    return f", stratified by {stratifier.label}{origin}, divided at the {where}{taken}"


def as_json(analysis: Analysis) -> dict[str, Any]:
    """The analysis as plain data: the numbers, and the words that the page shows for them."""
    question, result = analysis.question, analysis.result
    table = result.table
    return {
        "title": title(question),
        "labels": labels(question),
        "endpoint": {
            "code": question.endpoint,
            "label": question.endpoint_label,
            "time_zero": question.time_zero,
        },
        "time_axis": time_axis(question),
        "n": result.n,
        "events": result.events,
        "n_cohort": analysis.n_cohort,
        "strata": [
            {
                "label": curve.label,
                "n": curve.n,
                "events": curve.events,
                "median": curve.median,
                "median_low": curve.median_low,
                "median_high": curve.median_high,
                "median_text": format_median(curve),
            }
            for curve in result.curves
        ],
        "at_risk": {
            "ticks": table.ticks.tolist(),
            "strata": [
                {
                    "label": label,
                    "at_risk": table.at_risk[index].tolist(),
                    "censored": table.censored[index].tolist(),
                    "events": table.events[index].tolist(),
                }
                for index, label in enumerate(table.labels)
            ],
        },
        "log_rank": result.log_rank
        and {
            "test": result.log_rank.test,
            "explained": result.log_rank.explained,
            "statistic": result.log_rank.statistic,
            "df": result.log_rank.df,
            "p": result.log_rank.p,
            "p_text": format_p(result.log_rank.p),
        },
        "hazard_ratios": [
            {
                "label": ratio.label,
                "reference": ratio.reference,
                "ratio": ratio.ratio,
                "low": ratio.low,
                "high": ratio.high,
                "p": ratio.p,
                "ph_p": _finite(ratio.ph_p),
                "text": format_ratio(ratio),
                "p_text": format_p(ratio.p),
                "ph_p_text": format_p(ratio.ph_p),
            }
            for ratio in result.hazard_ratios
        ],
        "cutoffs": [
            {"value": c.value, "name": c.name, "from_data": c.from_data}
            for c in analysis.strata.cutoffs
        ],
        "exclusions": [
            {"reason": e.reason, "n": len(e.patients), "patients": list(e.patients)}
            for e in analysis.exclusions
        ],
        "notes": list(analysis.notes),
        "methods": methods(analysis),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def as_csv(analysis: Analysis) -> str:
    """One row per stratum and distinct time, under comment lines (#) that say what this is."""
    question, result = analysis.question, analysis.result
    out = io.StringIO()
    for line in (
        *labels(question),
        f"Study: {question.study}",
        title(question),
        f"Times in months; {time_axis(question).lower()}",
        methods(analysis),
        "at_risk: just before the time; events, censored: at the time; survival: after it, 0 to 1",
    ):
        out.write(f"# {line}\n")
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(
        [
            "stratum",
            "time_months",
            "at_risk",
            "events",
            "censored",
            "survival",
            "lower_95",
            "upper_95",
        ]
    )
    for curve, steps in zip(result.curves, result.steps, strict=True):
        at = np.searchsorted(curve.time, steps.time, side="right") - 1
        for index, month in enumerate(steps.time):
            rows.writerow(
                [
                    curve.label,
                    f"{month:g}",
                    steps.at_risk[index],
                    steps.events[index],
                    steps.censored[index],
                    f"{curve.survival[at[index]]:.6f}",
                    f"{curve.lower[at[index]]:.6f}",
                    f"{curve.upper[at[index]]:.6f}",
                ]
            )
    return out.getvalue()
