"""What `past convert` wrote of a study, for the commands that work on it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml.errors import InputError


def converted_study(folder: Path) -> dict[str, Any]:
    """What `past convert` found in a study.

    Raises:
        InputError: ``study.not_converted``.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        str(found["study"]["slug"]), list(found["slides"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "study.not_converted",
            str(folder),
            "It holds no result.json that can be read.",
            "Convert the study first: past convert PATH FOLDER.",
        ) from error
    return found


def check_slides(slides: list[dict[str, Any]], codes: Iterable[str], what: str) -> None:
    """Raises InputError ``study.unknown_slide`` for codes that no slide has."""
    unknown = sorted(set(codes) - {slide["code"] for slide in slides})
    if unknown:
        raise InputError(
            "study.unknown_slide",
            what,
            f"There is no such slide: {', '.join(unknown)}.",
            f"Slides are: {', '.join(slide['code'] for slide in slides)}.",
        )


def mpp_of(slide: dict[str, Any]) -> float:
    """Microns per level-0 pixel of a slide, or InputError ``slide.no_mpp``."""
    value = slide.get("mpp") or slide["info"].get("mpp")
    if not value:
        raise InputError(
            "slide.no_mpp",
            slide["code"],
            "The slide does not say its resolution.",
            "Give mpp for it in slides.csv and convert the study again.",
        )
    return float(value)
