"""Whole-slide images: reading regions and tiles, checking files, writing pyramids.

Coordinates are level-0 pixels, (0, 0) the top-left corner of the top-left pixel; `mpp` is microns
per level-0 pixel. Formats are read through large-image, which picks the reader for each.
"""

from __future__ import annotations

import functools
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import large_image
import large_image_source_vips  # type: ignore[import-untyped]
import numpy as np
from large_image.exceptions import TileSourceError
from numpy.typing import NDArray
from PIL import Image

from ml.errors import InputError
from ml.io.pyramids import decode_whole, is_plain
from ml.io.pyramids import write_pyramid as write_pyramid
from ml.io.tiffs import TiffStructure, is_tiff, tiff_structure, unreadable

Pixels = NDArray[np.uint8]

JPEG_QUALITY = 80
_JPEG_420 = 2
# Outside these, a resolution tag is a scanner's or camera's dpi (72 dpi reads as 353 µm/px).
MPP_RANGE = (0.05, 20.0)
_LONGEST_SOURCE = 120  # characters that are kept of where a file says its resolution comes from

# Tiles and open files are cached inside each process, and bounded whatever the machine's memory:
# several web workers share it. At most 512 tiles (22 KB as JPEG, 197 KB as pixels).
large_image.config.setConfig("cache_backend", "python")
large_image.config.setConfig("cache_tileCache_maximum", 512)
# Pixels as stored: models and viewers see the same values, and a stored JPEG tile can be passed on
# without decoding it.
large_image.config.setConfig("icc_correction", False)


@dataclass(frozen=True)
class SlideInfo:
    """Sizes in level-0 pixels; `mpp` in µm per pixel, None when nobody states it."""

    width: int
    height: int
    levels: int
    tile_size: int
    mpp: float | None
    mpp_source: str
    objective: float | None


class SlideReader:
    """An open slide. Safe to share between threads. Made by :func:`open_slide`."""

    def __init__(self, path: Path, source: Any, info: SlideInfo) -> None:
        self.path = path
        self.info = info
        self._source = source

    def tile(self, z: int, x: int, y: int) -> bytes:
        """The JPEG tile at zoom `z` (0 the smallest level), column `x`, row `y`.

        The slide's own JPEG tile is passed on undecoded where it has one; otherwise quality 80,
        4:2:0. Tiles at the right and bottom border are padded to the full tile size.

        Raises:
            IndexError: there is no such tile.
        """
        if not self._has_tile(z, x, y):
            raise IndexError(f"{self.path.name} has no tile z={z} x={x} y={y}")
        try:
            return bytes(self._source.getTile(x, y, z))
        except TileSourceError:
            # Levels are stored rounded down but addressed rounded up: at odd sizes the last
            # column or row of a level may not be stored.
            return _jpeg(self._level_region(z, x * self.info.tile_size, y * self.info.tile_size))

    def region(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        out_width: int | None = None,
        out_height: int | None = None,
    ) -> Pixels:
        """The level-0 rectangle with its top-left corner at (x, y), resampled to the out size.

        Beyond the border the slide is mirrored, so that a crop stays centred on its cell.

        Args:
            x, y, width, height: level-0 pixels; fractions are honoured by resampling.
            out_width, out_height: pixels of the result; by default the rounded rectangle.

        Returns:
            (out_height, out_width, 3) uint8 RGB.
        """
        out_width = round(width) if out_width is None else out_width
        out_height = round(height) if out_height is None else out_height
        if min(width, height, out_width, out_height) <= 0:
            raise ValueError(f"empty region {width}×{height} → {out_width}×{out_height}")
        z, factor = self._level_for(min(width / out_width, height / out_height))
        left, top = x / factor, y / factor
        right, bottom = left + width / factor, top + height / factor
        x0, y0, x1, y1 = (
            math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom),
        )  # fmt: skip
        pixels = self._mirrored(z, factor, x0, y0, x1, y1)
        if (x0, y0, x1, y1) == (left, top, right, bottom) and pixels.shape[:2] == (
            out_height,
            out_width,
        ):
            return pixels
        resized = Image.fromarray(pixels).resize(
            (out_width, out_height),
            Image.Resampling.BILINEAR,
            box=(left - x0, top - y0, right - x0, bottom - y0),
        )
        return np.asarray(resized)

    def at_mpp(self, mpp: float, x0: float, y0: float, width: int, height: int) -> Pixels:
        """A (height, width, 3) uint8 region at `mpp` µm per pixel from level-0 corner (x0, y0).

        Raises:
            InputError: ``slide.no_mpp`` when the slide's own resolution is unknown.
        """
        scale = mpp / self.require_mpp()
        return self.region(
            x0, y0, width * scale, height * scale, out_width=width, out_height=height
        )

    def thumbnail(self, size: int) -> bytes:
        """A JPEG of the whole slide whose longer side has `size` pixels, or fewer."""
        scale = min(1.0, size / max(self.info.width, self.info.height))
        return _jpeg(
            self.region(
                0,
                0,
                self.info.width,
                self.info.height,
                out_width=max(1, round(self.info.width * scale)),
                out_height=max(1, round(self.info.height * scale)),
            )
        )

    def require_mpp(self) -> float:
        """The slide's µm per pixel, or InputError ``slide.no_mpp``."""
        if self.info.mpp is None:
            raise InputError(
                "slide.no_mpp",
                self.path.name,
                "the slide does not say its resolution (microns per pixel).",
                "Give `mpp` for this slide, e.g. 0.25 for a 40× and 0.5 for a 20× scan.",
            )
        return self.info.mpp

    def _has_tile(self, z: int, x: int, y: int) -> bool:
        if not 0 <= z < self.info.levels:
            return False
        span = self.info.tile_size << (self.info.levels - 1 - z)
        return 0 <= x * span < self.info.width and 0 <= y * span < self.info.height

    def _level_for(self, downsample: float) -> tuple[int, int]:
        """The smallest level that still has all the detail wanted: (z, level-0 px per pixel)."""
        down = max(0, min(self.info.levels - 1, math.floor(math.log2(max(downsample, 1.0)))))
        return self.info.levels - 1 - down, 2**down

    def _mirrored(self, z: int, factor: int, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        columns = _mirror(np.arange(x0, x1), max(1, self.info.width // factor))
        rows = _mirror(np.arange(y0, y1), max(1, self.info.height // factor))
        left, top = int(columns.min()), int(rows.min())
        inside = self._read(z, left, top, int(columns.max()) + 1, int(rows.max()) + 1)
        if (columns[0], columns[-1], rows[0], rows[-1]) == (x0, x1 - 1, y0, y1 - 1):
            return inside
        return inside[np.ix_(rows - top, columns - left)]

    def _read(self, z: int, x0: int, y0: int, x1: int, y1: int) -> Pixels:
        """Level pixels [x0, x1) × [y0, y1), all inside the slide, joined from its tiles."""
        size = self.info.tile_size
        out = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        for row in range(y0 // size, (y1 - 1) // size + 1):
            for column in range(x0 // size, (x1 - 1) // size + 1):
                tile = self._pixels(z, column, row)
                top, left = max(y0, row * size), max(x0, column * size)
                bottom, right = min(y1, (row + 1) * size), min(x1, (column + 1) * size)
                out[top - y0 : bottom - y0, left - x0 : right - x0] = tile[
                    top - row * size : bottom - row * size,
                    left - column * size : right - column * size,
                ]
        return out

    def _pixels(self, z: int, x: int, y: int) -> Pixels:
        try:
            tile = self._source.getTile(x, y, z, numpyAllowed="always")
        except TileSourceError as error:
            raise unreadable(self.path, f"tile z={z} x={x} y={y} cannot be read: {error}") from (
                error
            )
        if tile.ndim == 2 or tile.shape[2] < 3:
            tile = np.repeat(tile.reshape(*tile.shape[:2], -1)[:, :, :1], 3, axis=2)
        return np.asarray(tile[:, :, :3], np.uint8)

    def _level_region(self, z: int, x: int, y: int) -> Pixels:
        size = self.info.tile_size
        return self._mirrored(z, 2 ** (self.info.levels - 1 - z), x, y, x + size, y + size)


def open_slide(path: Path, mpp: float | None = None) -> SlideReader:
    """Opens a slide; opening it again in this process costs nothing (slides never change).

    Args:
        path: a file in any format large-image reads.
        mpp: µm per pixel where the file does not say, or says wrong. Never guessed.

    Raises:
        InputError: ``slide.unreadable``, ``slide.truncated``, or ``slide.bad_mpp``.
    """
    if mpp is not None and not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
        raise InputError(
            "slide.bad_mpp",
            path.name,
            f"{mpp} microns per pixel is not a slide's resolution.",
            f"Give a number between {MPP_RANGE[0]} and {MPP_RANGE[1]}.",
        )
    return _open(path, mpp)


@functools.lru_cache(maxsize=32)
def _open(path: Path, mpp: float | None) -> SlideReader:
    structure = tiff_structure(path) if is_tiff(path) else None
    try:
        source = _source(path, structure)
    except (TileSourceError, OSError) as error:
        raise unreadable(path, "is not a slide image that can be read.") from error
    metadata = source.getMetadata()
    if metadata["tileWidth"] != metadata["tileHeight"]:
        raise unreadable(
            path, f"has oblong tiles ({metadata['tileWidth']}×{metadata['tileHeight']})."
        )
    if mpp is not None:
        value, said_by = mpp, "given"
    elif is_plain(path):
        value, said_by = None, ""
    else:
        value, said_by = _own_mpp(source, structure.main.description if structure else "")
    info = SlideInfo(
        width=metadata["sizeX"],
        height=metadata["sizeY"],
        levels=metadata["levels"],
        tile_size=metadata["tileWidth"],
        mpp=value,
        mpp_source=said_by,
        objective=_objective(source),
    )
    return SlideReader(path, source, info)


def _source(path: Path, structure: TiffStructure | None) -> Any:
    # Images without square tiles of their own are cut into tiles by libvips. Readers are cached
    # here, not by large-image, whose cache does not see what this one holds.
    options = {"encoding": "JPEG", "jpegQuality": JPEG_QUALITY, "jpegSubsampling": _JPEG_420}
    if is_plain(path) or (structure and not structure.main.is_tiled):
        return large_image_source_vips.open(str(path), noCache=True, **options)
    return large_image.open(str(path), noCache=True, **options)


def verify_slide(path: Path) -> None:
    """Reads enough of a slide to know that it is whole; done once, when a slide is taken in.

    TIFF files (SVS, OME-TIFF) are checked for tiles beyond the end of the file, and tiles spread
    over the level-0 image are decoded. Images without tiles (JPEG, PNG) are decoded to the end.

    Raises:
        InputError: ``slide.unreadable`` or ``slide.truncated``.
    """
    if is_plain(path) or (is_tiff(path) and not tiff_structure(path).main.is_tiled):
        decode_whole(path)
        return
    reader = open_slide(path)
    info = reader.info
    columns, rows = -(-info.width // info.tile_size), -(-info.height // info.tile_size)
    for x in sorted({0, columns // 2, columns - 1}):
        for y in sorted({0, rows // 2, rows - 1}):
            reader._pixels(info.levels - 1, x, y)


def slide_size(path: Path) -> tuple[int, int]:
    """(width, height) in level-0 pixels."""
    info = open_slide(path).info
    return info.width, info.height


def needs_pyramid(path: Path) -> bool:
    """Whether the slide must be rewritten to be served tile by tile at every magnification."""
    return is_plain(path) or (is_tiff(path) and not tiff_structure(path).is_pyramid)


def _own_mpp(source: Any, description: str) -> tuple[float | None, str]:
    try:
        note = json.loads(description)
        return float(note["mpp"]), str(note["mpp_source"])[:_LONGEST_SOURCE]
    except (ValueError, KeyError, TypeError):
        pass
    millimetres = source.getNativeMagnification().get("mm_x")
    mpp = millimetres * 1000 if millimetres else None
    if mpp is None or not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
        return None, ""
    return mpp, "stated in the file"


def _objective(source: Any) -> float | None:
    """The magnification where the scanner states it; large-image derives it from mpp elsewhere."""
    stated = getattr(source, "_openslide", None)
    text = stated.properties.get("openslide.objective-power") if stated is not None else None
    return float(text) if text else None


def _mirror(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Positions on a line that is mirrored at both ends (its border pixel not repeated)."""
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    folded = np.mod(index, period)
    return np.where(folded < size, folded, period - folded)


def _jpeg(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, "JPEG", quality=JPEG_QUALITY, subsampling=_JPEG_420, optimize=False
    )
    return buffer.getvalue()
