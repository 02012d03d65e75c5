"""Two crops of each row at fixed physical size, for encoders that are trained on crops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml.inference.features import stop_if_asked
from ml.models.vit import CROP

if TYPE_CHECKING:
    from ml.io.slides import SlideReader
    from ml.report import Report

CELL_UM, CONTEXT_UM = 28.0, 112.0


def crop_sides(row_kind: str, spot_diameter_um: float | None) -> tuple[float, float]:
    """Sides in µm of the context and of the row itself; a spot's context is twice its diameter."""
    if row_kind == "cell":
        return CONTEXT_UM, CELL_UM
    spot = spot_diameter_um or 100.0
    return 2 * spot, spot


def crop(
    slide: SlideReader, x: float, y: float, side_um: float, mpp: float, pixels: int = CROP
) -> NDArray[np.uint8]:
    """A square of the slide centred on (x, y), mirrored beyond the border.

    Args:
        x, y: centre in level-0 pixels.
        side_um: side of the square in µm.
        mpp: microns per level-0 pixel.
        pixels: side of the result.

    Returns:
        (pixels, pixels, 3) uint8.
    """
    side = side_um / mpp
    return slide.region(x - side / 2, y - side / 2, side, side, out_width=pixels, out_height=pixels)


def row_crops(
    slide: SlideReader,
    xy: NDArray[np.float32],
    mpp: float,
    sides: tuple[float, float],
    path: Path,
    report: Report,
    span: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.uint8]:
    """Crops of all rows, from the file at `path` if it is complete, else written to it.

    Rows are read in the order of their place on the slide, so that neighbours share decoded tiles.

    Returns:
        (n, 2, CROP, CROP, 3) uint8, context first, memory-mapped read-only.
    """
    shape = (len(xy), 2, CROP, CROP, 3)
    if len(xy) == 0:
        return np.zeros(shape, np.uint8)
    done = path.with_suffix(path.suffix + ".json")
    identity = {"shape": list(shape), "sides_um": list(sides)}
    if not (done.exists() and json.loads(done.read_text()) == identity):
        path.parent.mkdir(parents=True, exist_ok=True)
        store = np.memmap(path, np.uint8, "w+", shape=shape)
        place = np.floor(xy / 512)
        for count, row in enumerate(np.lexsort((xy[:, 0], place[:, 0], place[:, 1]))):
            stop_if_asked(report)
            for i, side in enumerate(sides):
                store[row, i] = crop(slide, float(xy[row, 0]), float(xy[row, 1]), side, mpp)
            report.progress(span[0] + (span[1] - span[0]) * count / len(xy))
        store.flush()
        done.write_text(json.dumps(identity))
    report.progress(span[1])
    return np.memmap(path, np.uint8, "r", shape=shape)
