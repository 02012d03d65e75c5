"""The predict job: a model's expression for every row of slides that have none."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ml.errors import InputError
from ml.inference.features import device, stop_if_asked
from ml.inference.images import row_images
from ml.models import checkpoint
from ml.models.past import PAST
from ml.training.corpus import ImageSource, predict_rows

if TYPE_CHECKING:
    from ml.io.slides import SlideReader
    from ml.report import Report

BATCH = 2048


@dataclass(frozen=True)
class Target:
    """A slide to predict on; without a table its rows are found on the image."""

    slide: Path
    slide_code: str
    patient: str
    mpp: float
    table: Path | None
    table_sha256: str | None

    @classmethod
    def of(cls, data: dict[str, Any]) -> Target:
        """From the job's inputs."""
        table = data.get("table")
        return cls(
            Path(data["slide"]),
            data["slide_code"],
            data["patient"],
            float(data["mpp"]),
            Path(table) if table else None,
            data.get("table_sha256"),
        )


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
        slides, patient_table, seconds, rows_per_s.

    Raises:
        InputError: ``predict.no_rows``, ``predict.row_kind``, and those of model and slide.
    """
    from ml.io.celltable import CellTable
    from ml.io.layers import UNIT
    from ml.io.slides import open_slide

    began = time.perf_counter()
    report.stage("Reading the model")
    model = checkpoint.load(Path(inputs["model"]), device())
    targets = [Target.of(slide) for slide in inputs["slides"]]
    symbols = list(model.config.vocabulary.symbols)
    results: list[dict[str, Any]] = []
    patients = PatientMeans(len(symbols))
    for target in targets:
        slide = open_slide(target.slide, mpp=target.mpp)
        found, table, table_sha256 = None, target.table, target.table_sha256
        if table is None:
            report.stage(f"{target.slide_code}: finding {model.config.row_kind}s")
            found, table, table_sha256 = _find_rows(model, slide, target, out, report)
        rows = CellTable.open(table)
        _check_rows(model, rows.row_kind, rows.n_rows, target)
        report.stage(f"{target.slide_code}: image features")
        layer = Path("layers") / f"{target.slide_code}.zarr"
        _predict_slide(
            model,
            slide,
            target,
            rows.xy(),
            out / layer,
            patients,
            report,
            batch=int(params.get("batch") or BATCH),
            table_sha256=table_sha256 or "",
            model_sha256=inputs["model_sha256"],
        )
        results.append(
            {
                "slide_code": target.slide_code, "table": found, "layer": str(layer),
                "unit": UNIT, "panel_hash": _panel_hash(symbols), "n_rows": rows.n_rows,
            }
        )  # fmt: skip
    patients.write(out / "patients.parquet", symbols)
    seconds = time.perf_counter() - began
    return {
        "slides": results,
        "patient_table": {
            "path": "patients.parquet", "columns": symbols, "unit": UNIT,
            "n_patients": len(patients.sums),
        },
        "seconds": seconds,
        "rows_per_s": sum(r["n_rows"] for r in results) / max(seconds, 1e-9),
    }  # fmt: skip


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


def _check_rows(model: PAST, row_kind: str, n_rows: int, target: Target) -> None:
    if row_kind != model.config.row_kind:
        raise InputError(
            "predict.row_kind",
            f"slide {target.slide_code}",
            f"Its table has {row_kind}s, the model was trained on {model.config.row_kind}s.",
            f"Predict with a model for {row_kind}s.",
        )
    if n_rows == 0:
        raise InputError(
            "predict.no_rows",
            f"slide {target.slide_code}",
            f"No {row_kind} was found on it.",
            "Check that the slide is H&E and that its microns per pixel are right.",
        )


def _find_rows(
    model: PAST, slide: SlideReader, target: Target, out: Path, report: Report
) -> tuple[dict[str, Any], Path, str]:
    """Nuclei or a grid of spots on the tissue, as a table of positions without counts."""
    from ml.io.celltable import write_cell_table
    from ml.io.store import content_hash
    from ml.segmentation.nuclei import detect_nuclei
    from ml.segmentation.tissue import spot_grid

    config = model.config
    if config.row_kind == "cell":
        xy, source = detect_nuclei(slide, target.mpp, report), "nuclei:classical"
    else:
        diameter = config.spot_diameter_um or 100.0
        pitch = config.spot_pitch_um or 2 * diameter
        xy, source = spot_grid(slide, target.mpp, pitch), "grid"
    _check_rows(model, config.row_kind, len(xy), target)
    path = Path("tables") / f"{target.slide_code}.zarr"
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    info = write_cell_table(
        out / path,
        counts=csr_matrix((len(xy), 0), dtype=np.uint32),
        symbols=[],
        gene_ids=[],
        xy=xy,
        obs_names=[str(i) for i in range(len(xy))],
        row_kind=config.row_kind,
        spot_diameter_um=config.spot_diameter_um,
        source=source,
    )
    content = {
        "path": str(path), "n_rows": info.n_rows, "n_genes": 0, "row_kind": info.row_kind,
        "source": source, "spot_diameter_um": info.spot_diameter_um,
        "panel_hash": info.panel_hash,
    }  # fmt: skip
    return content, out / path, content_hash(out / path)[0]


def _predict_slide(
    model: PAST,
    slide: SlideReader,
    target: Target,
    xy: NDArray[np.float32],
    out: Path,
    patients: PatientMeans,
    report: Report,
    *,
    batch: int,
    table_sha256: str,
    model_sha256: str,
) -> None:
    """Image features into a scratch file, then expression block by block into the layer.

    Features of all rows come first because a row attends to neighbours that may lie in other
    tiles. They are in a file, so memory does not grow with the number of rows.
    """
    from ml.io.layers import LayerWriter

    scratch = out.parent / f".{out.stem}.images"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        images = row_images(slide, xy, target.mpp, model.config, scratch, report)
        source = ImageSource([images], [xy.astype(np.float64) * target.mpp], model.config)
        report.stage(f"{target.slide_code}: expression")
        with LayerWriter(
            out,
            symbols=list(model.config.vocabulary.symbols),
            n_rows=len(xy),
            table_sha256=table_sha256,
            model_sha256=model_sha256,
        ) as layer:
            for start in range(0, len(xy), batch):
                stop_if_asked(report)
                rows = np.arange(start, min(start + batch, len(xy)))
                values = predict_rows(model, source, rows)
                layer.append(values)
                patients.add(target.patient, values)
                report.progress((start + len(rows)) / len(xy))
    finally:
        for leftover in out.parent.glob(scratch.name + "*"):
            leftover.unlink()
