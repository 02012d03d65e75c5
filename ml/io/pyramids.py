"""Plain images (JPEG, PNG) and how they, or any TIFF, become tiled pyramids; by libvips."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.errors import InputError
from ml.io.tiffs import truncated, unreadable

_QUALITY = 88
_TILE = 256


def is_plain(path: Path) -> bool:
    """Whether this is a JPEG or PNG. Its resolution tag is the dpi of a camera or printer."""
    return path.suffix.lower() in {".jpg", ".jpeg", ".png"}


def write_pyramid(
    source: Path | NDArray[np.uint8], out: Path, *, mpp: float, mpp_source: str
) -> None:
    """Writes a pyramidal tiled TIFF (256 px tiles, JPEG), streaming.

    Resolution tags hold `mpp`; the description holds `mpp` and `mpp_source`, which
    :func:`ml.io.slides.open_slide` reads back. Of the source's metadata only the colour profile
    is kept.

    Args:
        source: a plain image, a TIFF, or an (h, w, 3) uint8 array.
        out: the file to write; it appears when it is complete.

    Raises:
        InputError: ``slide.unreadable`` or ``slide.truncated``.
    """
    import pyvips

    path = source if isinstance(source, Path) else Path("array")
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
    try:
        image = _vips_image(source).copy()
        for field in image.get_fields():
            if field.startswith(
                ("exif-", "xmp-", "iptc-", "photoshop-", "image-desc", "orientation")
            ):
                image.remove(field)
        note = json.dumps({"mpp": mpp, "mpp_source": mpp_source})
        image.set_type(pyvips.GValue.gstr_type, "image-description", note)
        image.tiffsave(
            str(part),
            tile=True,
            pyramid=True,
            tile_width=_TILE,
            tile_height=_TILE,
            compression="jpeg",
            Q=_QUALITY,
            bigtiff=image.width * image.height > 2**31,
            resunit="cm",
            xres=1000 / mpp,
            yres=1000 / mpp,
        )
        part.replace(out)
    except pyvips.Error as error:
        raise _vips_problem(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def _vips_image(source: Path | NDArray[np.uint8]) -> Any:
    import pyvips

    if not isinstance(source, Path):
        return pyvips.Image.new_from_array(np.ascontiguousarray(source)).copy(interpretation="srgb")
    try:
        image = pyvips.Image.new_from_file(str(source), access="sequential", fail_on="error")
    except pyvips.Error as error:
        raise _vips_problem(source, error) from error
    if image.format != "uchar":
        raise unreadable(source, f"has {image.format} pixels; 8-bit colour is needed.")
    if image.hasalpha():
        image = image.flatten(background=255)
    return image.colourspace("srgb")


def decode_whole(path: Path) -> None:
    """Decodes an image to its last line.

    Raises:
        InputError: ``slide.unreadable`` or ``slide.truncated``.
    """
    import pyvips

    try:
        _vips_image(path).avg()
    except pyvips.Error as error:
        raise _vips_problem(path, error) from error


def _vips_problem(path: Path, error: Exception) -> InputError:
    text = " ".join(str(error).split())
    cut_short = any(w in text.lower() for w in ("premature", "truncated", "out of order", "eof"))
    return truncated(path, text) if cut_short else unreadable(path, f"cannot be decoded ({text}).")
