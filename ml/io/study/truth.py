"""What was planted in a synthetic study: one document that lies beside its data.

It is for reading only: nothing is trained on it, and no job sees it. It is checked here to the last
field, because a page is drawn from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ml.errors import InputError

_WHERE = "truth/truth.json"
_MOST_BYTES = 5_000_000
_Count = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Correlation = Annotated[float, Field(ge=-1, le=1)]


class _Part(BaseModel):
    # A later generator may say more; what is said here must be right.
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class CellType(_Part):
    type: str
    label: str
    n: _Count
    share: _Share


class CellState(_Part):
    """A number that a cell of type `of` has, and that is visible as `drawn_as`."""

    name: str
    of: str
    label: str
    drawn_as: str


class Surrounding(_Part):
    name: str
    label: str


class PatientContact(_Part):
    patient: str
    site: str
    contact: float


class Contact(_Part):
    """Tumour-lymphocyte contact: how it is counted, its distribution, and each patient's."""

    definition: str
    radius_um: float
    mean: float
    sd: float
    by_patient: list[PatientContact]


class PlantedGene(_Part):
    """`oracle_pcc`: what a predictor that knows all that is visible reaches in the test part."""

    symbol: str
    gene_id: str
    link: Literal["morphology", "surroundings", "nothing"]
    follows: str
    oracle_pcc: _Correlation | None


class Hazard(_Part):
    term: str
    label: str
    log_hazard_ratio: float
    unit: str


class FittedHazard(_Part):
    """A Cox fit of the true columns, with its 95 % interval."""

    term: str
    log_hazard_ratio: float
    low: float
    high: float


class SiteEffect(_Part):
    site: str
    patients: _Count
    slides: _Count
    haematoxylin_gain: float
    eosin_gain: float
    events: _Count
    median_months: float | None
    note: str


class OracleRisk(_Part):
    predictor: str
    c_index: _Share
    low: float
    high: float


class Marker(_Part):
    marker: str
    gene: str
    compartment: str
    ihc_slides: _Count
    calibration_patients: _Count
    test_patients: _Count


class Twin(_Part):
    slug: str
    label: str
    what: str


class Artefacts(_Part):
    folds: _Count
    out_of_focus: _Count


class PlantedTruth(_Part):
    """The document, version 1."""

    version: Literal[1]
    mpp: float = Field(gt=0)
    seed: int
    cells: list[CellType]
    states: list[CellState]
    surroundings: list[Surrounding]
    contact: Contact
    genes: list[PlantedGene]
    hazards: list[Hazard]
    fitted: list[FittedHazard]
    sites: list[SiteEffect]
    oracle_risk: list[OracleRisk]
    markers: list[Marker]
    twins: list[Twin]
    artefacts: Artefacts
    real_slide: str | None


def find_truth(folder: Path, *, synthetic: bool) -> Path | None:
    """The checked document of a study folder; None where there is none.

    Raises:
        InputError: it is too large or not such a document, or the study is not synthetic.
    """
    path = folder / _WHERE
    if not path.exists():
        return None
    if not synthetic:
        raise InputError(
            "truth.not_synthetic",
            _WHERE,
            "only a synthetic study has a planted truth.",
            'Remove the file, or say "synthetic": true in study.json if the study is drawn.',
        )
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InputError(
                "truth.too_large",
                _WHERE,
                f"the file has {size / 1e6:.1f} MB; a page is drawn from it.",
                f"Keep it under {_MOST_BYTES / 1e6:g} MB: tables per cell go beside it.",
            )
        PlantedTruth.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            "truth.unreadable", _WHERE, "it is not a file that can be read.", "Write it again."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            "truth.wrong",
            f"{_WHERE} {field}".strip(),
            f"{first['msg']}.",
            "Write it as `python -m fixtures` does, or remove it.",
        ) from error
    return path
