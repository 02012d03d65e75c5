"""The audit of a converted study, alone or with a model that was trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml.errors import InputError
from ml.evaluation.audit import Unit, audit, audit_images, audit_statistics
from ml.inference.features import device
from ml.io.study.converted import converted_study
from ml.models import checkpoint
from ml.report import Report
from ml.training.corpus import Corpus
from ml.training.prepare import (
    SectionInput,
    pictures_of,
    read_images,
    read_tables,
    sections_of,
)


def audit_study(study: Path, model: Path | None, work: Path, report: Report) -> dict[str, Any]:
    """Check the measured slides of a study.

    Without a model the parts are those that the study planned for its patients. With one they are
    the model's: its slides must be those that it was trained on, and its statistics those of its
    training slides.

    Returns:
        scope, slides and patients of each part, images (see `audit_images`) and, with a model,
        statistics (see `audit_statistics`).

    Raises:
        InputError: ``audit.no_parts``, ``audit.other_slides``, those of `ml.evaluation.audit`, of
            model and study.
    """
    trained = None if model is None else checkpoint.load(model, device())
    if trained is None:
        given = _planned(study)
    else:
        given = _of_model(study, list(trained.config.provenance.get("sections", [])))
    scope = audit(Unit(s.slide_code, s.patient, s.part, s.slide_sha256) for s in given)
    report.stage("Reading tables")
    panel = None if trained is None else list(trained.config.vocabulary.symbols)
    tables = read_tables(given, panel=panel)
    report.stage("Comparing images")
    parts = sorted({s.part for s in given})
    found: dict[str, Any] = {
        "scope": scope,
        "slides": {p: sum(s.part == p for s in given) for p in parts},
        "patients": {p: len({s.patient for s in given if s.part == p}) for p in parts},
        "images": audit_images(pictures_of(tables.sections), scope),
    }
    if trained is not None:
        report.stage("Fitting anew what the model was fitted")
        tables.sections[:] = [s for s in tables.sections if s.given.part == "train"]
        train = Corpus(read_images(tables, trained.config, work, report), trained.config)
        found["statistics"] = audit_statistics(trained, train)
    return found


def _planned(study: Path) -> list[SectionInput]:
    found = converted_study(study)
    parts = {p["code"]: p["part"] for p in found["patients"] if p.get("part")}
    if not parts:
        raise InputError(
            "audit.no_parts",
            str(study),
            "The study plans no parts for its patients.",
            "Name a model that was trained on it: --model FOLDER.",
        )
    slides = found["slides"]
    return sections_of(
        study, {s["code"]: parts[s["patient"]] for s in slides if s["patient"] in parts}
    )


def _of_model(study: Path, sections: list[dict[str, Any]]) -> list[SectionInput]:
    """The slides that a model's provenance names, if they are still the same."""
    given = sections_of(study, {s["slide_code"]: s["part"] for s in sections})
    here = {s.slide_code: (s.slide_sha256, s.table_sha256) for s in given}
    other = [
        s["slide_code"]
        for s in sections
        if here.get(s["slide_code"]) != (s["slide_sha256"], s["table_sha256"])
    ]
    if other or not sections:
        raise InputError(
            "audit.other_slides",
            f"study {study}",
            f"{', '.join(other[:5]) or 'None of its slides'} "
            f"{'is' if len(other) == 1 else 'are'} not what the model was trained and tested on.",
            "Give the study that the model was trained on, as it was then.",
        )
    return given
