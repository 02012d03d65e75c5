"""The structure of a TIFF file (SVS, OME-TIFF): its levels, and whether it is all there.

Decoders return grey tiles, or nothing at all, for a file that was cut short in transfer. So every
directory's tile offsets are compared with the size of the file before a slide is taken in.

Source: TIFF 6.0 specification; BigTIFF as in libtiff's ``TIFFTAG_BIGTIFF`` description.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.errors import InputError

_TYPES = {1: "u1", 2: "S1", 3: "u2", 4: "u4", 5: "u8", 6: "i1", 7: "S1", 8: "i2", 9: "i4",
          10: "i8", 11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}  # fmt: skip
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _DESCRIPTION = 256, 257, 258, 262, 270
_STRIPS, _SAMPLES, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT = 273, 277, 279, 322, 323
_TILES, _TILE_BYTES, _SUB_DIRECTORIES = 324, 325, 330
_WANTED = {_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _DESCRIPTION, _STRIPS, _SAMPLES, _STRIP_BYTES,
           _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SUB_DIRECTORIES}  # fmt: skip
SUFFIXES = {".tif", ".tiff", ".svs", ".ptif", ".ptiff", ".btf"}
_LARGEST_LOWEST_LEVEL = 2048


class _CutShort(Exception):
    """A directory or its data points beyond the end of the file."""


@dataclass(frozen=True)
class TiffImage:
    """One image directory. Sizes in pixels; `tile` is (0, 0) for an untiled image."""

    width: int
    height: int
    tile: tuple[int, int]
    bits: int
    samples: int
    description: str

    @property
    def is_tiled(self) -> bool:
        """Whether it is cut into square tiles."""
        return self.tile[0] == self.tile[1] > 0


@dataclass(frozen=True)
class TiffStructure:
    images: tuple[TiffImage, ...]

    @property
    def main(self) -> TiffImage:
        return self.images[0]

    @property
    def is_pyramid(self) -> bool:
        """Whether tiles of every magnification can be read without reading far more than them."""
        main = self.main
        levels = [
            image
            for image in self.images
            if image.tile == main.tile and abs(image.width / image.height * main.height
                                               / main.width - 1) < 0.02
        ]  # fmt: skip
        return (
            main.is_tiled
            and 128 <= main.tile[0] <= 1024
            and (main.bits, main.samples) == (8, 3)
            and min(max(i.width, i.height) for i in levels) <= _LARGEST_LOWEST_LEVEL
        )


def is_tiff(path: Path) -> bool:
    """Whether the file is in the TIFF family and laid out by the book (NDPI is not)."""
    return path.suffix.lower() in SUFFIXES


def tiff_structure(path: Path) -> TiffStructure:
    """Reads every image directory and checks that all its data lies within the file.

    Raises:
        InputError: ``slide.truncated`` when anything points beyond the end of the file,
            ``slide.unreadable`` when it is no TIFF.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            images = _Directories(data).images()
    except _CutShort as error:
        raise truncated(path, str(error)) from error
    except (ValueError, OSError) as error:
        raise unreadable(path, f"is not a TIFF image ({error}).") from error
    return TiffStructure(tuple(images))


def truncated(path: Path, detail: str) -> InputError:
    return InputError(
        "slide.truncated",
        path.name,
        f"the slide is cut short: {detail}.",
        "Copy the file again from its source and compare sizes or checksums.",
    )


def unreadable(path: Path, detail: str) -> InputError:
    return InputError(
        "slide.unreadable",
        path.name,
        detail,
        "Check that the file opens in a slide viewer, or convert it to a pyramidal TIFF.",
    )


class _Directories:
    """Walks the chain of image directories, sub-directories included."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.size = len(data)
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        if order is None:
            raise ValueError("no TIFF byte-order mark")
        self.order = order
        version = self._number(2, "H")
        if version not in (42, 43):
            raise ValueError(f"TIFF version {version}")
        self.big = version == 43
        self.first = self._number(8, "Q") if self.big else self._number(4, "I")

    def images(self) -> list[TiffImage]:
        found: list[TiffImage] = []
        seen: set[int] = set()
        queue = [self.first]
        while queue:
            offset = queue.pop(0)
            if offset == 0 or offset in seen:
                continue
            seen.add(offset)
            tags, following = self._directory(offset)
            found.append(self._image(tags, number=len(found)))
            queue.extend(int(o) for o in tags.get(_SUB_DIRECTORIES, ()))
            queue.append(following)
        if not found:
            raise ValueError("no image directory")
        return found

    def _directory(self, offset: int) -> tuple[dict[int, NDArray[np.generic]], int]:
        count_code, entry_size, value_size = ("Q", 20, 8) if self.big else ("H", 12, 4)
        count = self._number(offset, count_code)
        start = offset + struct.calcsize(count_code)
        tags: dict[int, NDArray[np.generic]] = {}
        for entry in range(start, start + count * entry_size, entry_size):
            tag, kind = self._number(entry, "H"), self._number(entry + 2, "H")
            if tag not in _WANTED or kind not in _TYPES:
                continue
            length = self._number(entry + 4, "Q" if self.big else "I")
            dtype = np.dtype(self.order + _TYPES[kind])
            place = entry + 4 + value_size
            if length * dtype.itemsize > value_size:
                place = self._number(place, "Q" if self.big else "I")
            tags[tag] = np.frombuffer(self._bytes(place, length * dtype.itemsize), dtype)
        return tags, self._number(start + count * entry_size, "Q" if self.big else "I")

    def _image(self, tags: dict[int, NDArray[np.generic]], number: int) -> TiffImage:
        def first(tag: int, default: int) -> int:
            return int(tags[tag][0]) if tag in tags else default

        tiled = _TILES in tags
        offsets = tags.get(_TILES if tiled else _STRIPS)
        sizes = tags.get(_TILE_BYTES if tiled else _STRIP_BYTES)
        if offsets is None or sizes is None or len(offsets) != len(sizes):
            raise ValueError(f"image {number} does not say where its pixels are")
        ends = offsets.astype(np.uint64) + sizes.astype(np.uint64)
        outside = int((ends > self.size).sum())
        if outside:
            part = "tiles" if tiled else "strips"
            raise _CutShort(
                f"{outside} of {len(ends)} {part} of image {number} lie beyond the end of the file"
            )
        return TiffImage(
            width=first(_WIDTH, 0),
            height=first(_HEIGHT, 0),
            tile=(first(_TILE_WIDTH, 0), first(_TILE_HEIGHT, 0)) if tiled else (0, 0),
            bits=first(_BITS, 1),
            samples=first(_SAMPLES, 1),
            description=_text(tags.get(_DESCRIPTION)),
        )

    def _number(self, offset: int, code: str) -> int:
        value = struct.unpack(
            self.order + code, self._bytes(offset, struct.calcsize(self.order + code))
        )
        return int(value[0])

    def _bytes(self, offset: int, length: int) -> bytes:
        if offset + length > self.size:
            raise _CutShort(f"its directory at byte {offset} lies beyond the end of the file")
        return self.data[offset : offset + length]


def _text(value: NDArray[np.generic] | None) -> str:
    return "" if value is None else value.tobytes().rstrip(b"\0").decode("utf-8", "replace")
