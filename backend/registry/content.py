"""What the job kinds of this app take, and what `ml` says it made. Paths are relative to the
folder a job writes to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from backend.cells.content import CellTableContent
from backend.slides.content import SlideContent
from backend.studies.content import StudyContent
from ml.models.encoder_list import DEFAULT, FOLDER, LISTED, NAMES

RowKind = Literal["cell", "spot"]
Codes = Annotated[list[str], Field(max_length=10_000)]


class _Params(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImportParams(_Params):
    """`format` "auto" looks at the folder."""

    path: str = Field(min_length=1, max_length=4096)
    format: Literal["auto", "study", "her2st", "kirc"] = "auto"


class TrainParams(_Params):
    """Slide codes per part; None leaves the choice to the seeded split. Epochs None: ml decides."""

    row_kind: RowKind | None = None
    validation: Codes | None = None
    test: Codes | None = None
    epochs: int | None = Field(default=None, ge=1, le=1000)
    seed: int = Field(default=0, ge=0, lt=2**31)
    encoder: str = DEFAULT
    preset: Literal["small", "tiny"] = "small"

    @field_validator("encoder")
    @classmethod
    def _is_listed(cls, name: str) -> str:
        found = next((entry for entry in LISTED if entry.name == name), None)
        if found is None:
            raise ValueError(f"choose one of {', '.join(NAMES)}")
        if not found.is_here():
            raise ValueError(
                f"{found.title} needs its owner's file ({' or '.join(found.files)}) in the folder "
                f"{name} of the one that {FOLDER} names"
            )
        return name


class PredictParams(_Params):
    """Model version id, the codes of the slides to predict on, and how their rows are seen: each
    by a crop of its own, or together by a shared forward. None: as the model was trained."""

    model: int
    slides: Codes = Field(min_length=1)
    way: Literal["crop", "shared"] | None = None


class EvaluateParams(_Params):
    """Model version id and the seed of all draws. The held-out part is scored; None takes every
    baseline."""

    model: int
    baselines: list[str] | None = Field(default=None, max_length=20)
    seed: int = Field(default=0, ge=0, lt=2**31)


class GateParams(_Params):
    """What a promotion must show."""

    full_report: bool = False
    median_not_worse: bool = False
    margin: float = Field(default=0.0, ge=0, le=1)
    no_baseline_ahead: bool = False


class PatientTableContent(BaseModel):
    """A parquet file with index "patient" and one column per gene or feature."""

    name: str
    unit: str
    source: Literal["measured", "predicted", "risk"]
    path: str
    columns: list[str]
    n_patients: int


class ImportedSlide(SlideContent):
    cells: CellTableContent | None = None


class ImportResult(StudyContent):
    """`truth` is the document of what was planted in a synthetic study."""

    slides: list[ImportedSlide] = Field(default_factory=list)
    patient_tables: list[PatientTableContent] = Field(default_factory=list)
    truth: str | None = None


class EvaluationContent(BaseModel):
    part: Literal["train", "validation", "test"]
    path: str
    metrics: dict[str, Any]


class TrainResult(BaseModel):
    model: str
    row_kind: RowKind
    metrics: dict[str, Any]
    evaluations: list[EvaluationContent]
    config: dict[str, Any]


class EvaluateResult(BaseModel):
    evaluations: list[EvaluationContent]
    audit: dict[str, Any]
    seconds: float
    peak_memory_gib: float


class PredictedSlide(BaseModel):
    """`table` is there when the rows had to be found first. `annotations` are those that the model
    makes of rows, whether it declined the slide or not.

    `ood_share` is the share of rows outside the model's training distribution, None where the model
    does not know one. A slide that the model `declined` for it has no layer.
    """

    slide_code: str
    table: CellTableContent | None
    layer: str | None
    unit: str
    panel_hash: str
    n_rows: int
    ood_share: float | None = None
    declined: bool = False
    annotations: dict[Literal["cell_type", "trust"], str | None] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _layer_unless_declined(self) -> PredictedSlide:
        if self.declined != (self.layer is None) or (self.declined and self.ood_share is None):
            raise ValueError("a slide has a layer, or it is declined with the share that says why")
        return self


class PredictedPatients(BaseModel):
    path: str
    columns: list[str]
    unit: str


class PredictResult(BaseModel):
    """`patient_table` is None when every slide was declined."""

    slides: list[PredictedSlide]
    patient_table: PredictedPatients | None
    way: Literal["crop", "shared"] | None = None
    seconds: float
    rows_per_s: float
