"""Crop files of shards: written from the slide, read row by row, checked on every read."""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ml.inference.crops import crop
from ml.inference.features import stop_if_asked
from ml.io.slides import SlideReader
from ml.report import Report
from ml.training.shards.layout import CELL_PIXELS, CONTEXT_PIXELS, CROP_BYTES, Settings

Pixels = NDArray[np.uint8]
_SIDES = (CONTEXT_PIXELS, CELL_PIXELS)
_ROWS_AT_ONCE = 512


def write_crops(
    slide: SlideReader,
    xy_px: NDArray[np.float32],
    mpp: float,
    sides_um: tuple[float, float],
    settings: Settings,
    path: Path,
    report: Report,
) -> dict[str, NDArray[Any]]:
    """Writes context and cell crop of each row, centred on it and mirrored beyond the border.

    Args:
        xy_px: (n, 2) level-0 pixels, in an order in which neighbours share decoded tiles.
        mpp: µm per level-0 pixel; a crop spans `sides_um` whatever it is.
        path: the file to write; it is overwritten.

    Returns:
        ``crop_crc`` and, for JPEG, ``crop_starts`` (see `layout`).
    """

    def encoded(place: NDArray[np.float32]) -> list[bytes]:
        x, y = float(place[0]), float(place[1])
        pixels = [
            crop(slide, x, y, side, mpp, size) for side, size in zip(sides_um, _SIDES, strict=True)
        ]
        if settings.crops == "uint8":
            return [image.tobytes() for image in pixels]
        return [
            bytes(imagecodecs.jpeg8_encode(image, level=settings.jpeg_quality, subsampling="420"))
            for image in pixels
        ]

    sizes, checks = [0], []
    with path.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as threads:
        for first in range(0, len(xy_px), _ROWS_AT_ONCE):
            stop_if_asked(report)
            for both in threads.map(encoded, xy_px[first : first + _ROWS_AT_ONCE]):
                joined = b"".join(both)
                file.write(joined)
                sizes += [len(image) for image in both]
                checks.append(zlib.crc32(joined))
            report.progress(min(1.0, (first + _ROWS_AT_ONCE) / len(xy_px)))
    arrays = {"crop_crc": np.array(checks, np.uint32)}
    if settings.crops == "jpeg":
        arrays["crop_starts"] = np.cumsum(sizes).astype(np.uint64)
    return arrays


class CropFile:
    """Crops of one shard, opened for reading.

    Rows are read by `pread` rather than through a memory map: each is needed once an epoch, and
    what is mapped would count as this process's memory until it is given back.
    """

    def __init__(self, path: Path, arrays: dict[str, NDArray[Any]]) -> None:
        self._file = path.open("rb", buffering=0)
        self._checks = arrays["crop_crc"]
        self._starts = arrays.get("crop_starts")

    def read(self, row: int, context: Pixels, cell: Pixels) -> None:
        """Fills `context` (224, 224, 3) and `cell` (112, 112, 3), both C-contiguous.

        Raises:
            ValueError: the bytes are not those that were written.
        """
        descriptor = self._file.fileno()
        if self._starts is None:
            # Straight into the batch, without a copy.
            both = [image.reshape(-1).data for image in (context, cell)]
            read = os.preadv(descriptor, both, row * CROP_BYTES)
            self._check(row, read == CROP_BYTES, zlib.crc32(both[1], zlib.crc32(both[0])))
            return
        start, middle, stop = (int(n) for n in self._starts[2 * row : 2 * row + 3])
        joined = os.pread(descriptor, stop - start, start)
        self._check(row, len(joined) == stop - start, zlib.crc32(joined))
        imagecodecs.jpeg8_decode(joined[: middle - start], out=context)
        imagecodecs.jpeg8_decode(joined[middle - start :], out=cell)

    def _check(self, row: int, whole: bool, found: int) -> None:
        if not whole or found != self._checks[row]:
            raise ValueError(f"the crops of row {row} are not those that were written")
