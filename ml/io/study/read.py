"""Reads a study folder and checks all of it, files included, before anything is made from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import ValidationError

from ml.errors import InputError
from ml.io.celltable import ROW_KINDS
from ml.io.slides import MPP_RANGE, open_slide, slide_size, verify_slide
from ml.io.study.cells import check_shared_genes, read_cells
from ml.io.study.content import (
    Outcome,
    Patient,
    SlideEntry,
    Specimen,
    StudyFolder,
    StudyHead,
)
from ml.io.study.patient_tables import read_patient_tables
from ml.io.study.tables import Row, read_rows
from ml.io.study.truth import find_truth
from ml.report import Report

_STAINS = ("H&E", "IHC")
_SPECIMEN_KINDS = ("primary", "metastasis", "unknown")
_PARTS = ("train", "validation", "test")
# A slide's code becomes a file name.
_SLIDE_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")
T = TypeVar("T")


def read_study(folder: Path, report: Report | None = None) -> StudyFolder:
    """Reads and validates a study folder, every slide and cell table included.

    Raises:
        InputError: at the first thing that is wrong, naming file, row and remedy.
    """
    head = _read_head(folder / "study.json")
    patients = _read_patients(folder, head)
    codes = {patient.code for patient in patients}
    parts = _read_parts(folder, codes)
    patients = [replace(patient, part=parts.get(patient.code, "")) for patient in patients]
    outcomes = _read_outcomes(folder, head, codes)
    specimens = _read_specimens(folder, codes)
    truth = find_truth(folder, synthetic=head.synthetic)
    rows = _slide_rows(folder)
    slides: list[SlideEntry] = []
    panels: list[tuple[str, list[str]]] = []
    for number, row in enumerate(rows):
        entry = _slide_entry(row, folder, head, codes, specimens)
        panels.append(_check_cells(row, entry))
        slides.append(entry)
        if report:
            report.progress((number + 1) / len(rows))
    check_shared_genes(panels)
    tables = read_patient_tables(folder / "patient_tables", codes)
    return StudyFolder(folder, head, patients, outcomes, specimens, slides, tables, truth)


def _read_head(path: Path) -> StudyHead:
    try:
        return StudyHead.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            "study.missing",
            path.name,
            f"there is no study.json in {path.parent}.",
            "Give a study folder; the README says what it holds.",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            "study.head",
            f"{path.name} {field}".strip(),
            f"{first['msg']}.",
            "Correct this field of study.json.",
        ) from error


def _read_patients(folder: Path, head: StudyHead) -> list[Patient]:
    patients: dict[str, Patient] = {}
    columns = {column.name: column for column in head.clinical}
    rows = read_rows(folder / "patients.csv", required=["patient"], optional=["site", *columns])
    for row in rows:
        code = row.required("patient")
        if code in patients:
            raise row.error(
                "patient.twice",
                f"patient {code!r} is there twice.",
                "Keep one row per patient; several slides of a patient go into slides.csv.",
            )
        clinical: dict[str, float | str] = {}
        for name, column in columns.items():
            if column.kind == "number":
                number = row.number_or_none(name)
                if number is not None:
                    clinical[name] = number
            elif text := row.text(name):
                clinical[name] = _one_of(row, name, text, column.levels)
        patients[code] = Patient(code, row.text("site", longest=80), clinical)
    if not patients:
        raise InputError("patient.none", "patients.csv", "there is no patient.", "Add patients.")
    return list(patients.values())


def _read_parts(folder: Path, patients: set[str]) -> dict[str, str]:
    """The planned part of each patient who has one."""
    parts: dict[str, str] = {}
    for row in _optional_rows(folder / "parts.csv", ["patient", "part"], []):
        patient = _known_patient(row, patients)
        if patient in parts:
            raise row.error(
                "part.twice",
                f"patient {patient!r} is there twice.",
                "Keep one row per patient: all slides of a patient play the same part.",
            )
        parts[patient] = _one_of(row, "part", row.required("part"), _PARTS)
    return parts


def _read_outcomes(folder: Path, head: StudyHead, patients: set[str]) -> list[Outcome]:
    outcomes: dict[tuple[str, str], Outcome] = {}
    endpoints = {endpoint.code: endpoint for endpoint in head.endpoints}
    required = ["patient", "endpoint", "time", "cause"]
    for row in _optional_rows(folder / "outcomes.csv", required, ["entry"]):
        patient = _known_patient(row, patients)
        endpoint = endpoints[_one_of(row, "endpoint", row.required("endpoint"), list(endpoints))]
        time, entry = _time(row, "time"), _time(row, "entry", missing=0.0)
        if time < entry:
            raise row.error(
                "outcome.before_entry",
                f"time {time:g} lies before entry {entry:g}.",
                "Both count from the endpoint's time zero, in months; correct one of them.",
            )
        if (patient, endpoint.code) in outcomes:
            raise row.error(
                "outcome.twice",
                f"patient {patient!r} has {endpoint.code} twice.",
                "Keep one row per patient and endpoint.",
            )
        cause = row.required("cause")
        if cause not in {"0", *endpoint.causes}:
            known = ", ".join(f"{n} ({name})" for n, name in endpoint.causes.items())
            raise row.error(
                "outcome.unknown_event",
                f"cause {cause!r} is not an event of {endpoint.code}.",
                f"Code 0 for censored, or {known}; a `censorship` column is 1 - event.",
            )
        outcomes[patient, endpoint.code] = Outcome(patient, endpoint.code, entry, time, int(cause))
    return list(outcomes.values())


def _time(row: Row, column: str, missing: float | None = None) -> float:
    value = row.number_or_none(column)
    if value is None:
        if missing is None:
            raise row.error(
                "outcome.no_time",
                f"{column} is empty.",
                "Give the months under observation, or leave the row out.",
            )
        return missing
    if value < 0:
        raise row.error(
            "outcome.negative_time",
            f"{column} is {value:g} months, which is negative.",
            "Count months from the endpoint's time zero; leave the row out if it is unknown.",
        )
    return value


def _read_specimens(folder: Path, patients: set[str]) -> list[Specimen]:
    specimens: dict[tuple[str, str], Specimen] = {}
    optional = ["anatomic_site", "timepoint", "kind", "treatment"]
    for row in _optional_rows(folder / "specimens.csv", ["patient", "specimen"], optional):
        patient, code = _known_patient(row, patients), row.required("specimen")
        if (patient, code) in specimens:
            raise row.error(
                "specimen.twice",
                f"specimen {code!r} of {patient!r} is there twice.",
                "Keep one row per specimen.",
            )
        specimens[patient, code] = Specimen(
            patient,
            code,
            row.text("anatomic_site", longest=120),
            row.text("timepoint", longest=80),
            _one_of(row, "kind", row.text("kind") or "unknown", _SPECIMEN_KINDS),
            row.text("treatment"),
        )
    return list(specimens.values())


def _slide_rows(folder: Path) -> list[Row]:
    optional = ["specimen", "block", "section", "stain", "marker", "mpp", "mpp_source", "cells",
                "row_kind", "spot_diameter_um", "synthetic"]  # fmt: skip
    rows = list(_optional_rows(folder / "slides.csv", ["slide", "patient", "path"], optional))
    seen: set[str] = set()
    for row in rows:
        code = row.required("slide")
        if not _SLIDE_CODE.match(code):
            raise row.error(
                "slide.code",
                f"{code!r} cannot name a slide.",
                "Use letters, digits, dots, dashes and underscores.",
            )
        if code.lower() in seen:
            raise row.error(
                "slide.twice", f"slide {code!r} is there twice.", "Give each slide its own code."
            )
        seen.add(code.lower())
    return rows


def _slide_entry(
    row: Row, folder: Path, head: StudyHead, patients: set[str], specimens: list[Specimen]
) -> SlideEntry:
    """Checks one row of slides.csv and appends the specimen it implies."""
    patient = _known_patient(row, patients)
    specimen = row.text("specimen", longest=80)
    known = {s.specimen for s in specimens if s.patient == patient}
    if specimen and specimen not in known:
        raise row.error(
            "slide.unknown_specimen",
            f"specimen {specimen!r} of {patient!r} is not in specimens.csv.",
            "Add it there, or leave the field empty.",
        )
    if not specimen:
        specimen = f"{patient}-1"
        if specimen not in known:
            specimens.append(Specimen(patient, specimen))
    stain = _one_of(row, "stain", row.text("stain") or "H&E", _STAINS)
    if stain == "IHC" and not row.text("marker"):
        raise row.error("slide.no_marker", "an IHC slide has no marker.", "Name its antibody.")
    path = _inside(row, folder, "path")
    assert path is not None
    mpp, mpp_source = _resolution(row, path)
    cells, row_kind, diameter = _cells_columns(row, folder)
    return SlideEntry(
        slide=row.required("slide"),
        patient=patient,
        specimen=specimen,
        block=row.text("block", longest=80),
        section=row.text("section", longest=80),
        stain=stain,
        marker=row.text("marker", longest=40),
        path=path,
        mpp=mpp,
        mpp_source=mpp_source,
        cells=cells,
        row_kind=row_kind,
        spot_diameter_um=diameter,
        synthetic=_yes_or_no(row, "synthetic", missing=head.synthetic),
    )


def _resolution(row: Row, path: Path) -> tuple[float, str]:
    """Checks the image file; the mpp that the row gives, else the file's own."""
    _located(row, path, lambda: verify_slide(path))
    info = _located(row, path, lambda: open_slide(path).info)
    given = row.number_or_none("mpp")
    if given is None:
        if info.mpp is None:
            raise row.error(
                "slide.no_mpp",
                f"{path.name} does not say its resolution (microns per pixel).",
                "Fill in mpp, e.g. 0.25 for a 40× and 0.5 for a 20× scan.",
            )
        return info.mpp, info.mpp_source
    if not MPP_RANGE[0] <= given <= MPP_RANGE[1]:
        raise row.error(
            "slide.bad_mpp",
            f"mpp is {given:g}, which is not a slide's resolution.",
            f"Give microns per pixel, between {MPP_RANGE[0]} and {MPP_RANGE[1]}.",
        )
    return given, row.text("mpp_source", longest=120) or "given in slides.csv"


def _cells_columns(row: Row, folder: Path) -> tuple[Path | None, str, float | None]:
    cells = _inside(row, folder, "cells")
    if cells is None:
        return None, "", None
    row_kind = _one_of(row, "row_kind", row.required("row_kind"), ROW_KINDS)
    diameter = row.number_or_none("spot_diameter_um")
    if row_kind == "spot" and (diameter is None or diameter <= 0):
        raise row.error(
            "slide.no_spot_diameter",
            "spots have no diameter.",
            "Fill in spot_diameter_um, e.g. 55 for Visium and 100 for the first ST arrays.",
        )
    return cells, row_kind, diameter if row_kind == "spot" else None


def _check_cells(row: Row, entry: SlideEntry) -> tuple[str, list[str]]:
    """Reads a slide's cell table once, for its errors; its file name and gene symbols."""
    cells = entry.cells
    if cells is None:
        return "", []
    width, height = slide_size(entry.path)
    found = _located(row, cells, lambda: read_cells(cells, width=width, height=height))
    return f"{row.where} ({cells.name})", found.symbols


def _optional_rows(path: Path, required: list[str], optional: list[str]) -> list[Row]:
    return list(read_rows(path, required=required, optional=optional)) if path.exists() else []


def _known_patient(row: Row, patients: set[str]) -> str:
    code = row.required("patient")
    if code not in patients:
        raise row.error(
            "patient.unknown",
            f"patient {code!r} is not in patients.csv.",
            "Add the patient there, or correct the code.",
        )
    return code


def _yes_or_no(row: Row, column: str, *, missing: bool) -> bool:
    text = row.text(column)
    return _one_of(row, column, text, ("yes", "no")) == "yes" if text else missing


def _one_of(row: Row, column: str, value: str, choices: list[str] | tuple[str, ...]) -> str:
    if value not in choices:
        raise row.error(
            f"{row.table.removesuffix('.csv')}.{column}",
            f"{column} {value!r} is not known.",
            f"Known: {', '.join(choices) or 'none; declare it in study.json'}.",
        )
    return value


def _inside(row: Row, folder: Path, column: str) -> Path | None:
    """The file that a column names, relative to the study folder; None where empty."""
    text = (
        row.required(column, longest=1000) if column == "path" else row.text(column, longest=1000)
    )
    if not text:
        return None
    relative = PurePosixPath(text)
    if relative.is_absolute() or ".." in relative.parts:
        raise row.error(
            "slide.path_outside",
            f"{column} {text!r} leads out of the study folder.",
            "Give a path relative to the study folder, inside it.",
        )
    path = folder / relative
    if not path.exists():
        raise row.error(
            f"{'cells' if column == 'cells' else 'slide'}.missing",
            f"there is no file {text!r} in the study folder.",
            f"Copy it there, or correct {column}.",
        )
    return path


def _located(row: Row, path: Path, action: Callable[[], T]) -> T:
    """Runs a check of a file; what it complains of is placed at the row that names the file."""
    try:
        return action()
    except InputError as error:
        raise InputError(
            error.code, f"{row.where} ({path.name})", error.what, error.remedy
        ) from error
