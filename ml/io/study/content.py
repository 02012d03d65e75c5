"""What a study folder holds, typed. Made and validated by :func:`ml.io.study.read_study`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Endpoint(_Part):
    """A survival endpoint; `causes` maps an event's number ("1", "2", …) to its name."""

    code: str = Field(min_length=1, max_length=12)
    label: str = Field(min_length=1, max_length=120)
    time_zero: str = Field(min_length=1, max_length=120)
    causes: dict[Annotated[str, Field(pattern=r"^[1-9][0-9]?$")], str] = Field(min_length=1)


class ClinicalColumn(_Part):
    """A column of patients.csv; a category lists its levels in order."""

    name: str = Field(min_length=1, max_length=80)
    label: str = Field(min_length=1, max_length=120)
    kind: Literal["number", "category"]
    unit: str = Field(default="", max_length=30)
    levels: list[Annotated[str, Field(min_length=1, max_length=200)]] = []

    @model_validator(mode="after")
    def _has_levels(self) -> ClinicalColumn:
        if (self.kind == "category") != bool(self.levels):
            raise ValueError("a category has levels, a number has none")
        return self


class StudyHead(_Part):
    """study.json."""

    slug: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,59}$")
    name: str = Field(min_length=1, max_length=200)
    question: str = ""
    limits: str = ""
    source: str = ""
    synthetic: bool = False
    endpoints: list[Endpoint] = []
    clinical: list[ClinicalColumn] = []

    @model_validator(mode="after")
    def _named_once(self) -> StudyHead:
        for what, names in (
            ("endpoint", [e.code for e in self.endpoints]),
            ("clinical column", [c.name for c in self.clinical]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{what} {name!r} is there twice")
        if {"patient", "site"} & {c.name for c in self.clinical}:
            raise ValueError("patient and site are columns of their own, not clinical ones")
        return self


@dataclass(frozen=True)
class Patient:
    """`clinical` maps column name to number or level; a missing value has no entry.

    `part` is the part planned for the patient, "" where none is.
    """

    code: str
    site: str
    clinical: dict[str, float | str]
    part: str = ""


@dataclass(frozen=True)
class Outcome:
    """Times in months; under observation from `entry`; `cause` 0 is censored."""

    patient: str
    endpoint: str
    entry: float
    time: float
    cause: int


@dataclass(frozen=True)
class Specimen:
    patient: str
    specimen: str
    anatomic_site: str = ""
    timepoint: str = ""
    kind: str = "unknown"
    treatment: str = ""


@dataclass(frozen=True)
class SlideEntry:
    """One row of slides.csv, checked against its files. `mpp` in µm per level-0 pixel.

    `synthetic`: the image was drawn by software.
    """

    slide: str
    patient: str
    specimen: str
    block: str
    section: str
    stain: str
    marker: str
    path: Path
    mpp: float
    mpp_source: str
    cells: Path | None
    row_kind: str
    spot_diameter_um: float | None
    synthetic: bool


@dataclass(frozen=True)
class PatientTable:
    """Numbers per patient, e.g. bulk expression; one row per patient, NaN where missing."""

    name: str
    unit: str
    path: Path


@dataclass(frozen=True)
class StudyFolder:
    """`truth` is the document of what was planted; only a synthetic study may have one."""

    folder: Path
    head: StudyHead
    patients: list[Patient]
    outcomes: list[Outcome]
    specimens: list[Specimen]
    slides: list[SlideEntry]
    patient_tables: list[PatientTable]
    truth: Path | None
