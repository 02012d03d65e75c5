"""The predict job: a model's expression for every row of slides that have none."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.inference.annotate import publish_annotations
from ml.inference.features import device
from ml.inference.memory import keep_freed_memory
from ml.inference.rows import Target, rows_of
from ml.inference.slide import Job, Predicted, kept, predict_slide, publish
from ml.inference.ways import way_of
from ml.models import checkpoint
from ml.training.trust import is_declined

if TYPE_CHECKING:
    from ml.report import Report

BATCH = 2048


def run(
    params: dict[str, Any], inputs: dict[str, Any], out: Path, report: Report
) -> dict[str, Any]:
    """Predict every panel gene for every row of some slides.

    Args:
        params: ``way`` (see `ml.inference.ways`; by default the one that the model was trained
            in), ``batch``, rows decoded at a time.
        inputs: ``model``, ``model_sha256``, ``slides`` (see `Target`), ``work`` (a folder that
            survives attempts, ``OUT/work`` by default; whoever gave it removes it in the end).
        out: where ``layers/``, found ``tables/`` and ``patients.parquet`` are written, once all
            slides are done.
        report: stages and progress.

    Returns:
        slides, patient_table, way, seconds, rows_per_s. Each slide has ``ood_share``, the share of
        its rows that look unlike the training rows (None for a model that cannot tell), and
        ``declined``: then it has no layer and does not count in its patient's means. Its
        ``annotations`` are the paths of its ``cell_type`` and ``trust`` (`ml.io.annotations`),
        None for what the model cannot tell. The patient_table is None when every slide was
        declined.

    Raises:
        InputError: ``predict.no_rows``, ``predict.row_kind``, ``predict.way``,
            ``predict.memory``, and those of model, encoder and slide.
    """
    keep_freed_memory()
    began = time.perf_counter()
    report.stage("Reading the model")
    model = checkpoint.load(Path(inputs["model"]), device())
    way = way_of(model, params.get("way"))
    work = Path(inputs.get("work") or out / "work")
    job = Job(model, inputs["model_sha256"], way, int(params.get("batch") or BATCH), work)
    targets = [Target.of(slide) for slide in inputs["slides"]]
    before = _finished(job, targets, report)
    now = _predicted(job, [t for t in targets if t.slide_code not in before], report)
    predicted = before | now
    seconds = time.perf_counter() - began
    slides = [_publish(job, target, predicted[target.slide_code], out) for target in targets]
    return {
        "slides": slides,
        "patient_table": _patient_table(job, targets, predicted, out),
        "way": way,
        "seconds": seconds,
        "rows_per_s": sum(done.n_rows for done in now.values()) / max(seconds, 1e-9),
    }


def _finished(job: Job, targets: list[Target], report: Report) -> dict[str, Predicted]:
    """Slides by code that an earlier attempt finished."""
    found = {t.slide_code: done for t in targets if (done := kept(job, t)) is not None}
    if found:
        report.log(f"{len(found)} of {len(targets)} slides were finished before.")
    return found


def _predicted(job: Job, targets: list[Target], report: Report) -> dict[str, Predicted]:
    """Slides by code, predicted one after the other."""
    found: dict[str, Predicted] = {}
    for rows in rows_of(job.model, targets, job.work, report):
        code = rows.target.slide_code
        found[code] = predict_slide(job, rows, report)
        share = found[code].share
        if share is not None and is_declined(share):
            report.log(
                f"{code} is declined: {share:.0%} of its {job.model.config.row_kind}s "
                "look unlike those the model was trained on."
            )
    return found


def _publish(job: Job, target: Target, done: Predicted, out: Path) -> dict[str, Any]:
    """Puts what was made of a slide in its place, and describes it."""
    from ml.io.celltable import panel_hash
    from ml.io.layers import UNIT

    declined = done.sums is None
    layer = Path("layers") / f"{target.slide_code}.zarr"
    if not declined:
        publish(job.layer(target), out / layer)
    if done.found is not None:
        publish(job.work / done.found["path"], out / done.found["path"])
    return {
        "slide_code": target.slide_code, "table": done.found,
        "layer": None if declined else str(layer),
        "unit": UNIT, "panel_hash": panel_hash(list(job.model.config.vocabulary.symbols)),
        "n_rows": done.n_rows, "ood_share": done.share, "declined": declined,
        "annotations": publish_annotations(job.folder(target), target.slide_code, out),
    }  # fmt: skip


def _patient_table(
    job: Job, targets: list[Target], predicted: dict[str, Predicted], out: Path
) -> dict[str, Any] | None:
    """Mean predicted expression of each patient, over all rows of the patient's slides."""
    from ml.io.layers import UNIT

    sums: dict[str, NDArray[np.float64]] = {}
    rows: dict[str, int] = {}
    for target in targets:
        done = predicted[target.slide_code]
        if done.sums is not None:
            sums[target.patient] = sums.get(target.patient, 0.0) + done.sums
            rows[target.patient] = rows.get(target.patient, 0) + done.n_rows
    if not sums:
        return None
    patients, symbols = sorted(sums), list(job.model.config.vocabulary.symbols)
    frame = pd.DataFrame(
        np.asarray([sums[p] / rows[p] for p in patients], np.float32),
        columns=symbols,
        index=pd.Index(patients, name="patient"),
    )
    path = out / "patients.parquet"
    temporary = path.with_name(path.name + ".part")
    frame.to_parquet(temporary)
    temporary.replace(path)
    return {
        "path": path.name, "columns": symbols, "unit": UNIT, "n_patients": len(patients),
    }  # fmt: skip
