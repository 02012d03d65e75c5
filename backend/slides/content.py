"""What an import says about slides; the files lie beside it in the job's output folder."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class SlideInfoContent(BaseModel):
    """Sizes in level-0 pixels, `mpp` in microns per pixel."""

    width: int
    height: int
    levels: int
    tile_size: int
    mpp: float
    mpp_source: str
    objective: float | None = None


class SlideContent(BaseModel):
    """`file` and `thumbnail` are paths relative to the job's output folder."""

    code: str
    patient: str
    specimen: str
    block: str = ""
    section: str = ""
    stain: Literal["H&E", "IHC"] = "H&E"
    marker: str = ""
    synthetic: bool = False
    info: SlideInfoContent
    file: str
    thumbnail: str
