"""The rows of slides to predict on: given, or found on the image while another is predicted."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ml.errors import InputError
from ml.inference.features import stop_if_asked
from ml.models.checkpoint import write_json
from ml.models.past import PAST

if TYPE_CHECKING:
    from ml.io.slides import SlideReader
    from ml.report import Report

_POLL = 0.1  # seconds between looks at what is being found


@dataclass(frozen=True)
class Target:
    """A slide to predict on; without a table its rows are found on the image."""

    slide: Path
    slide_code: str
    patient: str
    mpp: float
    table: Path | None
    table_sha256: str | None

    def identity(self) -> dict[str, Any]:
        """What stands for the slide and its table; another file has another size or time."""
        file = self.slide.stat()
        return {
            "slide": [str(self.slide), file.st_size, file.st_mtime_ns],
            "mpp": self.mpp,
            "table": self.table_sha256,
        }

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


@dataclass(frozen=True)
class SlideRows:
    """An open slide and its rows.

    Attributes:
        xy: (n, 2) positions in level-0 pixels.
        found: description of the table that was written, None for a given one.
        table_sha256: content hash of the table.
    """

    target: Target
    slide: SlideReader
    xy: NDArray[np.float32]
    found: dict[str, Any] | None
    table_sha256: str


def rows_of(model: PAST, targets: list[Target], out: Path, report: Report) -> Iterator[SlideRows]:
    """Rows of each slide in turn; those of the next slide are found while one is worked on.

    One slide ahead and no further, so memory does not grow with their number.

    Raises:
        InputError: ``predict.no_rows``, ``predict.row_kind``, and those of the slide, when the
            slide's turn comes.
    """
    behind = _Behind(report)
    with ThreadPoolExecutor(1) as pool:
        try:
            waiting: list[Future[SlideRows]] = []
            for number, target in enumerate(targets):
                for ahead in targets[number + len(waiting) : number + 2]:
                    waiting.append(pool.submit(_rows, model, ahead, out, behind))
                if target.table is None:
                    report.stage(f"{target.slide_code}: finding {model.config.row_kind}s")
                ready = waiting.pop(0)
                while not wait([ready], _POLL).done:
                    stop_if_asked(report)
                    report.progress(behind.share)
                yield ready.result()
        finally:
            behind.over.set()
            pool.shutdown(cancel_futures=True)


class _Behind:
    """Report of what is done behind another computation: it keeps its share, and says nothing."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.over = threading.Event()
        self.share = 0.0

    def stage(self, name: str) -> None:
        self.share = 0.0

    def progress(self, share: float) -> None:
        self.share = share

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self._report.metric(name, value, step)

    def log(self, text: str) -> None:
        self._report.log(text)

    def should_stop(self) -> bool:
        return self.over.is_set() or self._report.should_stop()


def _rows(model: PAST, target: Target, out: Path, report: Report) -> SlideRows:
    from ml.io.celltable import CellTable
    from ml.io.slides import open_slide

    report.stage(target.slide_code)
    slide = open_slide(target.slide, mpp=target.mpp)
    found, table, table_sha256 = None, target.table, target.table_sha256
    if table is None:
        found, table, table_sha256 = _find_rows(model, slide, target, out, report)
    rows = CellTable.open(table)
    check_rows(model, rows.row_kind, rows.n_rows, target)
    return SlideRows(target, slide, rows.xy(), found, table_sha256 or "")


def check_rows(model: PAST, row_kind: str, n_rows: int, target: Target) -> None:
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
    """Nuclei or a grid of spots on the tissue, as a table of positions without counts.

    They are found once: an attempt that comes later takes the table from `out`.
    """
    from ml.io.celltable import write_cell_table
    from ml.io.store import content_hash
    from ml.segmentation.nuclei import detect_nuclei
    from ml.segmentation.tissue import spot_grid

    config = model.config
    path = Path("tables") / f"{target.slide_code}.zarr"
    kept = out / path.with_suffix(".json")
    identity = {
        **target.identity(), "row_kind": config.row_kind,
        "spot_um": [config.spot_diameter_um, config.spot_pitch_um],
    }  # fmt: skip
    before = read_json(kept)
    if before and before["identity"] == identity:
        return before["content"], out / path, before["sha256"]
    if config.row_kind == "cell":
        xy, source = detect_nuclei(slide, target.mpp, report), "nuclei:classical"
    else:
        diameter = config.spot_diameter_um or 100.0
        pitch = config.spot_pitch_um or 2 * diameter
        xy, source = spot_grid(slide, target.mpp, pitch), "grid"
    check_rows(model, config.row_kind, len(xy), target)
    shutil.rmtree(out / path, ignore_errors=True)
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
    sha256 = content_hash(out / path)[0]
    write_json(kept, {"identity": identity, "content": content, "sha256": sha256})
    return content, out / path, sha256


def read_json(path: Path) -> dict[str, Any] | None:
    """What an earlier attempt wrote, None where there is nothing that can be read."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found
