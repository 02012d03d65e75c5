"""The evaluate job: a model and measured slides in, the whole report out."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ml.errors import InputError
from ml.evaluation.audit import Unit, audit, audit_images, audit_statistics
from ml.evaluation.baselines.bleep import bleep
from ml.evaluation.baselines.context import neighbours_oracle
from ml.evaluation.baselines.linear import (
    colour_ridge,
    frozen_ridge,
    mean_of_training,
    morphology_ridge,
)
from ml.evaluation.baselines.published import published_past
from ml.evaluation.baselines.st_net import st_net
from ml.evaluation.chapters import chapters
from ml.evaluation.evaluate import own_predictor, write_genes
from ml.evaluation.expression import score
from ml.evaluation.maps import worst_regions, write_maps
from ml.evaluation.spatial import spatially_variable
from ml.evaluation.subject import Predictor, Subject
from ml.inference.features import device, stop_if_asked
from ml.models import checkpoint
from ml.models.past import PAST
from ml.report import plain
from ml.tasks.cell_types import read_labels
from ml.training.corpus import Corpus
from ml.training.prepare import (
    SectionInput,
    Tables,
    pictures_of,
    read_images,
    read_tables,
)

if TYPE_CHECKING:
    from ml.report import Report

REPORT = "report.json"
# Baselines by name; those on features need a model that has them.
Fit = Callable[[Subject], Predictor]
BASELINES: dict[str, Fit] = {
    "mean": lambda s: mean_of_training(s.train),
    "colour_ridge": lambda s: colour_ridge(s.model, s.train),
    "morphology_ridge": morphology_ridge,
    "frozen_ridge": lambda s: frozen_ridge(s.model, s.train),
    "bleep": bleep,
    "st_net": st_net,
    "published": published_past,
    "neighbours": lambda s: neighbours_oracle(s.train),
}
_ON_FEATURES = {"colour_ridge", "frozen_ridge", "bleep"}


def run(
    params: dict[str, Any], inputs: dict[str, Any], out: Path, report: Report
) -> dict[str, Any]:
    """Evaluate a model.

    Args:
        params: ``parts`` (by default those that are tested on: ``test`` and ``external``),
            ``baselines`` (names in `BASELINES`; all by default), ``chapters`` (names; all by
            default), ``seed``.
        inputs: ``model`` (folder), ``sections`` (see `SectionInput`; their part may also be
            ``external``, of slides that the model's training knew nothing of), ``work``, and
            ``sites`` (patient → site), if they are known.
        out: ``evaluation/`` is written there: ``per_gene.csv``, ``report.json``, ``maps/``.

    Returns:
        evaluations (part, path, metrics), audit, seconds, peak_memory_gib.

    Raises:
        InputError: ``evaluate.no_part``, ``evaluate.no_training``, ``evaluate.unknown``, those of
            the audit, of model and tables.
    """
    began = time.perf_counter()
    given = [SectionInput.of(section) for section in inputs["sections"]]
    wanted = _wanted(params, given)
    model = checkpoint.load(Path(inputs["model"]), device()).eval()
    work, seed = Path(inputs["work"]), int(params.get("seed") or 0)
    report.stage("Audit")
    scope = audit(Unit(s.slide_code, s.patient, s.part, s.slide_sha256) for s in given)
    tables = read_tables(given, panel=list(model.config.vocabulary.symbols), partial=True)
    audited: dict[str, Any] = {
        "scope": scope,
        "images": audit_images(pictures_of(tables.sections), scope),
    }
    report.stage("Image features")
    subject = _subject(model, tables, work, inputs.get("sites") or {}, seed, report)
    audited["statistics"] = audit_statistics(model, subject.train)
    baselines = _fitted(subject, params.get("baselines"), report)
    evaluations = _evaluated(subject, wanted, baselines, tables, params, out / "evaluation", report)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {
        "evaluations": evaluations, "audit": audited,
        "seconds": time.perf_counter() - began, "peak_memory_gib": peak,
    }  # fmt: skip
    checkpoint.write_json(out / "evaluation" / REPORT, plain(result))
    return result


def _wanted(params: dict[str, Any], given: list[SectionInput]) -> list[str]:
    there = {section.part for section in given}
    if "train" not in there:
        raise InputError(
            "evaluate.no_training",
            "sections",
            "None of the model's training slides is given: baselines cannot be fitted and nothing "
            "can be audited.",
            "Give the study that the model was trained on, too.",
        )
    asked = params.get("parts") or [p for p in ("test", "external") if p in there]
    missing = [part for part in asked if part not in there or part == "train"]
    if missing or not asked:
        raise InputError(
            "evaluate.no_part",
            "parts",
            f"No slide is in the part {missing[0]}." if missing else "No slide is held out.",
            "Give slides that the model was not trained on.",
        )
    for name in params.get("baselines") or ():
        if name not in BASELINES:
            raise InputError(
                "evaluate.unknown", "baselines", f"There is no baseline {name!r}.",
                f"Choose among: {', '.join(BASELINES)}.",
            )  # fmt: skip
    return list(asked)


def _subject(
    model: PAST, tables: Tables, work: Path, sites: dict[str, str], seed: int, report: Report
) -> Subject:
    sections = read_images(tables, model.config, work, report)
    of: dict[str, Corpus] = {}
    for part in ("train", "validation", "test", "external"):
        own = [s for s in sections if s.part == part]
        if own and any(s.totals.any() for s in own):
            of[part] = Corpus(own, model.config)
    labels = read_labels(section.given for section in tables.sections)
    measured = {s.given.slide_code: s for s in tables.sections}
    return Subject(model, of.pop("train"), of, measured, labels, work, sites, seed)


def _fitted(subject: Subject, names: list[str] | None, report: Report) -> list[Predictor]:
    """The baselines, fitted one after the other to the training part."""
    found = []
    chosen = [n for n in BASELINES if names is None or n in names]
    for place, name in enumerate(chosen):
        if name in _ON_FEATURES and subject.model.config.features is None:
            report.log(f"Baseline {name} is left out: a model on crops has no frozen features.")
            continue
        report.stage(f"Baseline: {name.replace('_', ' ')}")
        stop_if_asked(report)
        began = time.perf_counter()
        predictor = BASELINES[name](subject)
        facts = {**predictor.facts, "seconds": time.perf_counter() - began}
        found.append(replace(predictor, facts=facts))
        report.progress((place + 1) / len(chosen))
    return found


def _evaluated(
    subject: Subject,
    wanted: list[str],
    baselines: list[Predictor],
    tables: Tables,
    params: dict[str, Any],
    out: Path,
    report: Report,
) -> list[dict[str, Any]]:
    frames: dict[str, pd.DataFrame] = {}
    evaluations = []
    spatial = spatially_variable(subject.train)
    symbols, kind = subject.model.config.vocabulary.symbols, subject.model.config.row_kind
    for part in wanted:
        corpus = subject.held_out[part]
        report.stage(f"Expression, {part}")
        predicted = corpus.predict(subject.model)
        metrics, frames[part] = score(
            own_predictor(subject.model), baselines, corpus, symbols, kind, spatial,
            predicted=predicted, seed=subject.seed,
        )  # fmt: skip
        metrics["problems"] += _not_on_panel(tables, part)
        metrics["full"] = True
        metrics["worst_regions"] = worst_regions(subject, corpus, predicted)
        metrics |= _chapters(subject, part, params.get("chapters"), report)
        write_maps(subject, corpus, predicted, out / "maps" / part)
        evaluations.append({"part": part, "path": "evaluation", "metrics": metrics})
        if metrics["pcc_median"] is not None:
            report.metric(f"{part}_pcc", metrics["pcc_median"])
    write_genes(frames, out)
    return evaluations


def _chapters(
    subject: Subject, part: str, names: list[str] | None, report: Report
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in chapters():
        if names is not None and one.name not in names:
            continue
        report.stage(one.title)
        stop_if_asked(report)
        began = time.perf_counter()
        told = one.tell(subject, part, report)
        if told is not None:
            found[one.name] = {**told, "seconds": time.perf_counter() - began}
    return found


def _not_on_panel(tables: Tables, part: str) -> list[str]:
    lacking = {
        s.given.slide_code: s.missing for s in tables.sections
        if s.given.part == part and s.missing
    }  # fmt: skip
    if not lacking:
        return []
    most = max(lacking.values())
    return [
        f"{len(lacking)} slides lack up to {most} of the model's {len(tables.symbols)} genes; a "
        "gene is scored on the slides that have it, and rows are scaled by the genes they share."
    ]
