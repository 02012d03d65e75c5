"""Turns a validated study folder into what the workbench serves: pyramids, tables, thumbnails."""

from __future__ import annotations

import dataclasses
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from ml.errors import InputError
from ml.io.celltable import CellTable, write_cell_table
from ml.io.layers import UNIT
from ml.io.slides import SlideReader, needs_pyramid, open_slide, slide_size, write_pyramid
from ml.io.study.cells import read_cells
from ml.io.study.content import PatientTable, SlideEntry, StudyFolder
from ml.io.study.patient_tables import patient_frame
from ml.io.study.read import read_study
from ml.report import Report

THUMBNAIL = 512
_Adapter = Callable[[Path, Path, Report], Path]


def run_import(
    params: dict[str, Any], inputs: dict[str, Any], out: Path, report: Report
) -> dict[str, Any]:
    """The import job.

    Args:
        params: ``format``: "study", "her2st", "kirc", or "auto" to look at the folder.
        inputs: ``path``: the folder (or file) to import.
        out: where to write; see :func:`convert_study`.

    Raises:
        InputError: whatever is wrong with what is imported.
    """
    source = Path(inputs["path"])
    form = params.get("format", "auto")
    form = detect_format(source) if form == "auto" else form
    if form == "study":
        return convert_study(source, out, report)
    staged = out / f".study-{uuid.uuid4().hex}"
    try:
        return convert_study(_adapter(form)(source, staged, report), out, report)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def detect_format(path: Path) -> str:
    """The format of a folder to import: "study", "her2st" or "kirc".

    Raises:
        InputError: ``import.unknown_format``.
    """
    if (path / "study.json").exists():
        return "study"
    if (path / "counts").is_dir() and (path / "spots").is_dir():
        return "her2st"
    if "kirc" in path.name.lower() or any(path.glob("*kirc*.csv*")):
        return "kirc"
    raise InputError(
        "import.unknown_format",
        str(path),
        "this is not a study folder, the her2st data set or the TCGA KIRC table.",
        "Write a study folder (see the README) and import that.",
    )


def _adapter(form: str) -> _Adapter:
    from ml.io.her2st import her2st_study
    from ml.io.kirc import kirc_study

    adapters: dict[str, _Adapter] = {"her2st": her2st_study, "kirc": kirc_study}
    if form not in adapters:
        raise InputError(
            "import.unknown_format",
            f"format {form!r}",
            "there is no such format.",
            f"Choose auto, study, {', '.join(adapters)}.",
        )
    return adapters[form]


def convert_study(folder: Path, out: Path, report: Report) -> dict[str, Any]:
    """Validates a study folder and writes its slides, cell tables and patient tables to `out`.

    Returns:
        The rows to be and the files written, paths relative to `out`: ``study``, ``patients``,
        ``outcomes``, ``specimens``, ``slides``, ``patient_tables``, ``truth``
        (None where the study has no planted truth).

    Raises:
        InputError: see :func:`ml.io.study.read_study`; nothing was written then.
    """
    report.stage("Checking the study")
    study = read_study(folder, report)
    for name in ("slides", "thumbnails", "cells", "patient_tables"):
        (out / name).mkdir(parents=True, exist_ok=True)
    report.stage("Converting slides")
    slides = []
    for number, entry in enumerate(study.slides):
        slides.append(_convert_slide(entry, out))
        report.progress((number + 1) / len(study.slides))
    report.stage("Writing patient tables")
    tables = [_copy_table(table, out, report) for table in study.patient_tables]
    tables += _pseudobulk(study, out)
    if study.truth:
        shutil.copyfile(study.truth, out / "truth.json")
    return {
        "study": study.head.model_dump(),
        "patients": [dataclasses.asdict(patient) for patient in study.patients],
        "outcomes": [dataclasses.asdict(outcome) for outcome in study.outcomes],
        "specimens": [dataclasses.asdict(specimen) for specimen in study.specimens],
        "slides": slides,
        "patient_tables": tables,
        "truth": "truth.json" if study.truth else None,
    }


def _convert_slide(entry: SlideEntry, out: Path) -> dict[str, Any]:
    if needs_pyramid(entry.path):
        file = out / "slides" / f"{entry.slide}.tif"
        write_pyramid(entry.path, file, mpp=entry.mpp, mpp_source=entry.mpp_source)
    else:
        suffix = ".ome.tif" if entry.path.name.lower().endswith(".ome.tif") else entry.path.suffix
        file = out / "slides" / f"{entry.slide}{suffix}"
        _link_or_copy(entry.path, file)
    reader = open_slide(file, entry.mpp)
    thumbnail = out / "thumbnails" / f"{entry.slide}.jpg"
    thumbnail.write_bytes(reader.thumbnail(THUMBNAIL))
    return {
        "code": entry.slide,
        "patient": entry.patient,
        "specimen": entry.specimen,
        "block": entry.block,
        "section": entry.section,
        "stain": entry.stain,
        "marker": entry.marker,
        "synthetic": entry.synthetic,
        "info": _info(reader, entry),
        "file": _relative(file, out),
        "thumbnail": _relative(thumbnail, out),
        "cells": _convert_cells(entry, out),
    }


def _info(reader: SlideReader, entry: SlideEntry) -> dict[str, Any]:
    stated = dataclasses.asdict(reader.info)
    return {**stated, "mpp": entry.mpp, "mpp_source": entry.mpp_source}


def _convert_cells(entry: SlideEntry, out: Path) -> dict[str, Any] | None:
    if entry.cells is None:
        return None
    width, height = slide_size(entry.path)
    cells = read_cells(entry.cells, width=width, height=height)
    path = out / "cells" / f"{entry.slide}.zarr"
    info = write_cell_table(
        path,
        counts=cells.counts,
        symbols=cells.symbols,
        gene_ids=cells.gene_ids,
        xy=cells.xy,
        obs_names=cells.obs_names,
        row_kind=entry.row_kind,
        spot_diameter_um=entry.spot_diameter_um,
        source="measured" if cells.symbols else "positions",
        cell_types=cells.cell_types,
    )
    return {"path": _relative(path, out), **dataclasses.asdict(info)}


def _copy_table(table: PatientTable, out: Path, report: Report) -> dict[str, Any]:
    frame = patient_frame(table.path)
    empty = frame.columns[frame.isna().all()]
    if len(empty):
        report.log(f"{table.name}: {len(empty)} columns without any value were left out.")
        frame = frame.drop(columns=empty)
    path = out / "patient_tables" / f"{table.path.stem}.parquet"
    return _write_table(frame.astype(np.float32), path, out, name=table.name, unit=table.unit)


def _pseudobulk(study: StudyFolder, out: Path) -> list[dict[str, Any]]:
    """Measured expression per patient: the mean of the displayed unit over all measured rows.

    Over the genes that all tables share, so that patients are comparable; cells and spots apart.
    """
    tables = []
    for kind in sorted({slide.row_kind for slide in study.slides if slide.cells}):
        opened = [
            (slide.patient, CellTable.open(out / "cells" / f"{slide.slide}.zarr"))
            for slide in study.slides
            if slide.row_kind == kind
        ]
        measured = [(patient, table) for patient, table in opened if table.n_genes]
        if measured:
            frame = mean_expression(measured)
            path = out / "patient_tables" / f"measured_{kind}s.parquet"
            name = f"Measured expression, mean over {kind}s"
            tables.append(_write_table(frame, path, out, name=name, unit=f"mean {UNIT}"))
    return tables


def mean_expression(tables: list[tuple[str, CellTable]]) -> Any:
    """(patients × shared genes) float32 pandas table: mean over rows of log1p of counts per 10,000.

    Args:
        tables: (patient, table); a patient's tables are pooled row by row.
    """
    import pandas as pd

    shared = set.intersection(*(set(table.symbols) for _, table in tables))
    symbols = [symbol for symbol in tables[0][1].symbols if symbol in shared]
    sums: dict[str, Any] = {}
    rows: dict[str, int] = {}
    for patient, table in tables:
        columns = [table.index(symbol) for symbol in symbols]
        counts = table.counts()[:, columns].astype(np.float64)
        totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
        scaled = sparse.diags(1e4 / totals) @ counts
        total = np.asarray(scaled.log1p().sum(axis=0)).ravel()
        sums[patient] = sums.get(patient, 0) + total
        rows[patient] = rows.get(patient, 0) + table.n_rows
    frame = pd.DataFrame(
        {patient: sums[patient] / rows[patient] for patient in sums}, index=symbols
    ).T.astype(np.float32)
    frame.index.name = "patient"
    return frame


def _write_table(frame: Any, path: Path, out: Path, *, name: str, unit: str) -> dict[str, Any]:
    part = path.with_name(f".{path.name}.part")
    frame.to_parquet(part)
    part.replace(path)
    return {
        "name": name,
        "unit": unit,
        "source": "measured",
        "path": _relative(path, out),
        "columns": frame.columns.tolist(),
        "n_patients": len(frame),
    }


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _relative(path: Path, out: Path) -> str:
    return path.relative_to(out).as_posix()
