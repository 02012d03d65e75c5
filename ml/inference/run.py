"""The predict job: a model's expression for every row of slides that have none."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.inference.features import device, stop_if_asked
from ml.inference.images import row_images
from ml.inference.memory import keep_freed_memory
from ml.inference.rows import SlideRows, Target, rows_of
from ml.models import checkpoint
from ml.models.past import PAST
from ml.training.corpus import ImageSource, predict_rows
from ml.training.trust import is_declined, ood_share

if TYPE_CHECKING:
    from ml.report import Report

BATCH = 2048


def run(
    params: dict[str, Any], inputs: dict[str, Any], out: Path, report: Report
) -> dict[str, Any]:
    """Predict every panel gene for every row of some slides.

    Args:
        params: ``batch``, rows decoded at a time.
        inputs: ``model``, ``model_sha256``, ``slides`` (see `Target`).
        out: where ``layers/``, found ``tables/`` and ``patients.parquet`` are written.
        report: stages and progress.

    Returns:
        slides, patient_table, seconds, rows_per_s. Each slide has ``ood_share``, the share of its
        rows that look unlike the training rows (None for a model that cannot tell), and
        ``declined``: then it has no layer and does not count in its patient's means. The
        patient_table is None when every slide was declined.

    Raises:
        InputError: ``predict.no_rows``, ``predict.row_kind``, and those of model and slide.
    """
    from ml.io.layers import UNIT

    keep_freed_memory()
    began = time.perf_counter()
    report.stage("Reading the model")
    model = checkpoint.load(Path(inputs["model"]), device())
    targets = [Target.of(slide) for slide in inputs["slides"]]
    symbols = list(model.config.vocabulary.symbols)
    results: list[dict[str, Any]] = []
    patients = PatientMeans(len(symbols))
    for rows in rows_of(model, targets, out, report):
        target = rows.target
        layer = Path("layers") / f"{target.slide_code}.zarr"
        share = _predict_slide(
            model,
            rows,
            out / layer,
            patients,
            report,
            batch=int(params.get("batch") or BATCH),
            model_sha256=inputs["model_sha256"],
        )
        declined = is_declined(share)
        if declined:
            report.log(
                f"{target.slide_code} is declined: {share:.0%} of its {model.config.row_kind}s "
                "look unlike those the model was trained on."
            )
        results.append(
            {
                "slide_code": target.slide_code, "table": rows.found,
                "layer": None if declined else str(layer),
                "unit": UNIT, "panel_hash": _panel_hash(symbols), "n_rows": len(rows.xy),
                "ood_share": share, "declined": declined,
            }
        )  # fmt: skip
    table = None
    if patients.sums:
        patients.write(out / "patients.parquet", symbols)
        table = {
            "path": "patients.parquet", "columns": symbols, "unit": UNIT,
            "n_patients": len(patients.sums),
        }  # fmt: skip
    seconds = time.perf_counter() - began
    return {
        "slides": results,
        "patient_table": table,
        "seconds": seconds,
        "rows_per_s": sum(r["n_rows"] for r in results) / max(seconds, 1e-9),
    }


class PatientMeans:
    """Mean predicted expression of each patient, over all rows of the patient's slides."""

    def __init__(self, genes: int) -> None:
        self._genes = genes
        self.sums: dict[str, NDArray[np.float64]] = {}
        self._rows: dict[str, int] = {}

    def add(self, patient: str, values: NDArray[np.float32]) -> None:
        """Count in a block of rows (k, genes)."""
        total = self.sums.setdefault(patient, np.zeros(self._genes))
        total += values.sum(0, dtype=np.float64)
        self._rows[patient] = self._rows.get(patient, 0) + len(values)

    def write(self, path: Path, symbols: list[str]) -> None:
        """Parquet with index ``patient`` and a float32 column per gene."""
        patients = sorted(self.sums)
        means = [self.sums[p] / self._rows[p] for p in patients]
        frame = pd.DataFrame(
            np.asarray(means, np.float32).reshape(-1, self._genes),
            columns=symbols,
            index=pd.Index(patients, name="patient"),
        )
        temporary = path.with_name(path.name + ".part")
        frame.to_parquet(temporary)
        temporary.replace(path)


def _panel_hash(symbols: list[str]) -> str:
    from ml.io.celltable import panel_hash

    return panel_hash(symbols)


def _predict_slide(
    model: PAST,
    rows: SlideRows,
    out: Path,
    patients: PatientMeans,
    report: Report,
    *,
    batch: int,
    model_sha256: str,
) -> float | None:
    """Image features into a scratch file, then expression block by block into the layer.

    Features of all rows come first because a row attends to neighbours that may lie in other
    tiles. They are in a file, so memory does not grow with the number of rows.

    Returns:
        the share of rows beyond the model's density; a slide that is declined gets no layer.
    """
    from ml.io.layers import LayerWriter

    target, xy = rows.target, rows.xy
    scratch = out.parent / f".{out.stem}.images"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        report.stage(f"{target.slide_code}: image features")
        images = row_images(rows.slide, xy, target.mpp, model.config, scratch, report)
        source = ImageSource([images], [xy.astype(np.float64) * target.mpp], model.config)
        share = ood_share(model, source)
        if is_declined(share):
            return share
        report.stage(f"{target.slide_code}: expression")
        with LayerWriter(
            out,
            symbols=list(model.config.vocabulary.symbols),
            n_rows=len(xy),
            table_sha256=rows.table_sha256,
            model_sha256=model_sha256,
        ) as layer:
            for start in range(0, len(xy), batch):
                stop_if_asked(report)
                some = np.arange(start, min(start + batch, len(xy)))
                values = predict_rows(model, source, some)
                layer.append(values)
                patients.add(target.patient, values)
                report.progress((start + len(some)) / len(xy))
        return share
    finally:
        for leftover in out.parent.glob(scratch.name + "*"):
            leftover.unlink()
