"""Image features of every row of a slide, by one forward pass per tile, kept as a float16 file."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.models import encoders
from ml.models.features import GRID, FeatureSpec, Scale, tile_features

if TYPE_CHECKING:
    from ml.io.slides import SlideReader
    from ml.report import Report

# Side in px of the square of rows that one tile serves. The tile itself is wider by the margins.
CORE = 1024

Tile = tuple[int, int, int, int]


def device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stop_if_asked(report: Report) -> None:
    """Leave, as SIGTERM would, when the job is being cancelled."""
    if report.should_stop():
        raise SystemExit(143)


def tiles(
    xy: NDArray[np.float32], mpp: float, scale: Scale, core: int = CORE
) -> Iterator[tuple[NDArray[np.int64], Tile]]:
    """Tiles that hold rows, each cut down to the rows in it and their margins.

    Args:
        xy: (n, 2) positions in level-0 pixels.
        mpp: microns per level-0 pixel.
        scale: resolution and windows.
        core: side in px at ``scale.mpp`` of the grid that rows are dealt to.

    Yields:
        row numbers and the tile (x, y, width, height) in px at ``scale.mpp``.
    """
    points = xy.astype(np.float64) * (mpp / scale.mpp)
    cell = np.floor(points / core).astype(np.int64)
    order = np.lexsort((cell[:, 0], cell[:, 1]))
    ordered = cell[order]
    starts = np.flatnonzero(np.any(np.diff(ordered, axis=0, prepend=-(2**62)), axis=1))
    for rows in np.split(order, starts[1:]):
        low = np.floor((points[rows].min(0) - scale.margin) / GRID).astype(int) * GRID
        high = np.ceil((points[rows].max(0) + scale.margin) / GRID).astype(int) * GRID
        (x, y), (width, height) = low.tolist(), (high - low).tolist()
        yield np.sort(rows), (x, y, width, height)


def _read(slide: SlideReader, mpp: float, scale: Scale, tile: Tile) -> NDArray[np.uint8]:
    """Pixels of a tile at the scale, mirrored beyond the slide's border."""
    x, y, width, height = tile
    zoom = scale.mpp / mpp
    return slide.region(
        x * zoom, y * zoom, width * zoom, height * zoom, out_width=width, out_height=height
    )


@functools.cache
def _encoder(name: str, where: torch.device) -> nn.Module:
    """The encoder, its weights read once."""
    return encoders.get(name).build().to(where)


def row_features(
    slide: SlideReader,
    xy: NDArray[np.float32],
    mpp: float,
    spec: FeatureSpec,
    path: Path,
    report: Report,
    span: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.float16]:
    """Features of all rows, from the file at `path` if it is complete, else computed into it.

    Args:
        slide: open slide.
        xy: (n, 2) positions in level-0 pixels.
        mpp: microns per level-0 pixel.
        spec: what to measure.
        path: file to keep them in; ``path.json`` beside it marks it complete.
        report: told of progress within `span`, and asked whether to stop.

    Returns:
        (n, spec.dim) float16, memory-mapped read-only.
    """
    done = path.with_suffix(path.suffix + ".json")
    shape = (len(xy), spec.dim)
    identity = {"shape": list(shape), "spec": spec.as_dict()}
    if len(xy) == 0:
        return np.zeros(shape, np.float16)
    if not (done.exists() and json.loads(done.read_text()) == identity):
        path.parent.mkdir(parents=True, exist_ok=True)
        _compute(slide, xy, mpp, spec, path, report, span)
        done.write_text(json.dumps(identity))
    report.progress(span[1])
    return np.memmap(path, np.float16, "r", shape=shape)


def _compute(
    slide: SlideReader,
    xy: NDArray[np.float32],
    mpp: float,
    spec: FeatureSpec,
    path: Path,
    report: Report,
    span: tuple[float, float],
) -> None:
    where = device()
    entry = encoders.get(spec.encoder)
    encoder = _encoder(spec.encoder, where)
    store = np.memmap(path, np.float16, "w+", shape=(len(xy), spec.dim))
    total = len(xy) * len(spec.scales)
    finished = start = 0
    for index, scale in enumerate(spec.scales):
        width = sum(count for at, *_, count in spec.blocks if at == index)
        for rows, tile in tiles(xy, mpp, scale):
            image = _read(slide, mpp, scale, tile)
            centres = xy[rows].astype(np.float64) * (mpp / scale.mpp) - tile[:2]
            values = tile_features(image, centres, scale, encoder, entry, where)
            store[rows, start : start + width] = values
            finished += len(rows)
            report.progress(span[0] + (span[1] - span[0]) * finished / total)
            stop_if_asked(report)
        start += width
    store.flush()
