"""What an import says about a study, its patients and their outcomes: the rows to be, typed.

These are the parts of the import's result that belong to this app. They were validated against the
files by `ml.io.study`; the types here only make the hand-over explicit.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class EndpointContent(BaseModel):
    code: str
    label: str
    time_zero: str
    causes: dict[str, str]


class ClinicalColumnContent(BaseModel):
    name: str
    label: str
    kind: Literal["number", "category"]
    unit: str = ""
    levels: list[str] = Field(default_factory=list)


class PatientContent(BaseModel):
    """`clinical` maps column name to a number or a text; a missing value has no entry or None.

    `part` is the part planned for the patient, empty where none is.
    """

    code: str
    site: str = ""
    part: Literal["", "train", "validation", "test"] = ""
    clinical: dict[str, float | str | None] = Field(default_factory=dict)


class OutcomeContent(BaseModel):
    """Times in months; `cause` 0 is censored."""

    patient: str
    endpoint: str
    entry: float = 0.0
    time: float
    cause: int


class SpecimenContent(BaseModel):
    patient: str
    specimen: str
    anatomic_site: str = ""
    timepoint: str = ""
    kind: Literal["primary", "metastasis", "unknown"] = "unknown"
    treatment: str = ""


class StudyHead(BaseModel):
    slug: str
    name: str
    question: str = ""
    limits: str = ""
    source: str = ""
    synthetic: bool = False
    endpoints: list[EndpointContent] = Field(default_factory=list)
    clinical: list[ClinicalColumnContent] = Field(default_factory=list)


class StudyContent(BaseModel):
    study: StudyHead
    patients: list[PatientContent]
    outcomes: list[OutcomeContent] = Field(default_factory=list)
    specimens: list[SpecimenContent] = Field(default_factory=list)
