"""`past trial kirc`: the TCGA KIRC cohort's Kaplan–Meier analyses, from the published table to SVG.

The questions are fixed beforehand; none was chosen for its result.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from ml.io.kirc import kirc_study
from ml.io.study import StudyFolder, read_study
from ml.io.study.patient_tables import patient_frame
from ml.report import ConsoleReport, Report
from ml.tasks.survival_analysis import CLINICAL, MEASURED, Analysis, Question, Stratifier, analyse
from ml.tasks.survival_figure import svg
from ml.tasks.survival_report import (
    RUO,
    as_csv,
    as_json,
    format_median,
    format_ratio,
    p_phrase,
)
from ml.tasks.survival_strata import Cut

ENDPOINT = "OS"
# Clinical variables of the table; BAP1, whose loss marks aggressive clear cell carcinoma (Hakimi et
# al. 2013); VEGFA, what its standard drugs act on; PLK1, a marker of proliferation.
CLINICAL_CUTS = {"age": Cut.MEDIAN, "sex": Cut.LEVELS, "BAP1_mut": Cut.LEVELS}
GENES = {"VEGFA": Cut.MEDIAN, "PLK1": Cut.TERTILES}


def main(path: Path, out: Path, report: Report | None = None) -> dict[str, Any]:
    """Run the trial, print its table, and write km-*.svg, .csv and .json with kirc.json into `out`.

    Args:
        path: ``tcga_kirc_all_clean.csv(.zip)``, or the folder that holds it.
        out: folder for the results; made if missing. Other files in it stay.

    Returns:
        The last printed line: n, events, and per analysis the log-rank p and hazard ratios.

    Raises:
        InputError: the table cannot be read or lacks what is needed.
    """
    with tempfile.TemporaryDirectory() as folder:
        study = read_study(kirc_study(path, Path(folder) / "study", report or ConsoleReport()))
        analyses = {name: _analysis(study, name) for name in ("all", *CLINICAL_CUTS, *GENES)}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        for name, analysis in analyses.items():
            stem = Path(folder) / f"km-{name}"
            stem.with_suffix(".svg").write_text(svg(analysis), encoding="utf-8")
            stem.with_suffix(".csv").write_text(as_csv(analysis), encoding="utf-8")
            stem.with_suffix(".json").write_text(_dumped(as_json(analysis)), encoding="utf-8")
        summary = _summary(analyses)
        (Path(folder) / "kirc.json").write_text(_dumped(summary), encoding="utf-8")
        for file in sorted(Path(folder).iterdir()):
            file.replace(out / file.name)
    _print(analyses)
    print(json.dumps(summary, ensure_ascii=False))
    return summary


def _analysis(study: StudyFolder, name: str) -> Analysis:
    endpoint = next(e for e in study.head.endpoints if e.code == ENDPOINT)
    outcome = {o.patient: o for o in study.outcomes if o.endpoint == ENDPOINT}
    codes = [patient.code for patient in study.patients]
    found = [outcome.get(code) for code in codes]
    cohort = pd.DataFrame(
        {
            "patient": codes,
            "entry": [o.entry if o else 0.0 for o in found],
            "time": [o.time if o else float("nan") for o in found],
            "event": [bool(o and o.cause) for o in found],
        }
    )
    stratifier, cut, values = _stratifier(study, name)
    if stratifier is not None:
        cohort["value"] = cohort["patient"].map(values)
    question = Question(
        study=study.head.name,
        endpoint=ENDPOINT,
        endpoint_label=endpoint.label,
        time_zero=endpoint.time_zero,
        stratifier=stratifier,
        cut=cut,
        synthetic=study.head.synthetic,
    )
    return analyse(question, cohort)


def _stratifier(
    study: StudyFolder, name: str
) -> tuple[Stratifier | None, Cut, dict[str, float | str]]:
    if name in CLINICAL_CUTS:
        column = next(c for c in study.head.clinical if c.name == name)
        values = {p.code: p.clinical[name] for p in study.patients if name in p.clinical}
        stratifier = Stratifier(
            CLINICAL,
            name,
            column.label,
            column.unit,
            column.kind == "number",
            tuple(column.levels),
        )
        return stratifier, CLINICAL_CUTS[name], values
    if name in GENES:
        (table,) = study.patient_tables
        column_values = patient_frame(table.path)[name]
        stratifier = Stratifier(MEASURED, name, name, table.unit, table=table.name)
        return stratifier, GENES[name], column_values.to_dict()
    return None, Cut.NONE, {}


def _summary(analyses: dict[str, Analysis]) -> dict[str, Any]:
    overall = analyses["all"].result
    return {
        "trial": "kirc",
        "label": RUO,
        "n": overall.n,
        "events": overall.events,
        "median_months": overall.curves[0].median,
        "analyses": {
            name: {
                "n": analysis.result.n,
                "events": analysis.result.events,
                "strata": {
                    curve.label: {"n": curve.n, "events": curve.events, "median": curve.median}
                    for curve in analysis.result.curves
                },
                "log_rank_p": analysis.result.log_rank.p,
                "hazard_ratios": [
                    {
                        "of": r.label,
                        "against": r.reference,
                        "ratio": r.ratio,
                        "low": r.low,
                        "high": r.high,
                        "p": r.p,
                    }
                    for r in analysis.result.hazard_ratios
                ],
            }
            for name, analysis in analyses.items()
            if analysis.result.log_rank is not None
        },
    }


def _print(analyses: dict[str, Analysis]) -> None:
    overall = analyses["all"]
    print(f"{overall.question.study}: {overall.question.endpoint_label}. {RUO}.")
    print(f"{'':44}{'n':>5}{'events':>8}  {'median, months (95 % CI)':28}hazard ratio (95 % CI)")
    for name, analysis in analyses.items():
        test = analysis.result.log_rank
        stratifier = analysis.question.stratifier
        said = f", {test.test} {p_phrase(test.p)}" if test else ""
        print(f"{stratifier.label if stratifier else name}{said}")
        ratios = {ratio.label: format_ratio(ratio) for ratio in analysis.result.hazard_ratios}
        for curve in analysis.result.curves:
            ratio = ratios.get(curve.label, "1 (reference)" if ratios else "")
            print(
                f"  {curve.label:42}{curve.n:>5}{curve.events:>8}  {format_median(curve):28}{ratio}"
            )


def _dumped(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
