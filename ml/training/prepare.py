"""From slides and cell tables to a model that is ready to be trained, and the rows to train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from ml.errors import InputError
from ml.evaluation.look_alikes import Picture
from ml.evaluation.ridge import Ridge
from ml.inference.encoder import load_encoder
from ml.inference.features import device
from ml.inference.memory import keep_freed_memory
from ml.inference.ways import Slide, row_images
from ml.io.store import content_hash
from ml.io.study.converted import converted_study, mpp_of
from ml.models import encoders
from ml.models.config import PRESETS, Architecture, ModelConfig
from ml.models.features import default_spec
from ml.models.past import PAST
from ml.tokens.vocabulary import Vocabulary
from ml.training.corpus import Corpus, Section, feature_moments, nearest
from ml.training.start import principal_programmes, ridge_to_programmes

if TYPE_CHECKING:
    from ml.report import Report

MAX_GENES = 1000
# A scale over fewer shared genes says more of the panel than of the cell.
LEAST_SHARED = 10


@dataclass(frozen=True)
class SectionInput:
    """A measured slide as a job names it; `mpp` in µm per level-0 pixel."""

    slide: Path
    table: Path
    slide_code: str
    patient: str
    part: str
    mpp: float
    slide_sha256: str
    table_sha256: str

    @classmethod
    def of(cls, data: dict[str, Any]) -> SectionInput:
        """From the job's inputs."""
        return cls(
            Path(data["slide"]),
            Path(data["table"]),
            data["slide_code"],
            data["patient"],
            data["part"],
            float(data["mpp"]),
            data["slide_sha256"],
            data["table_sha256"],
        )


def sections_of(study: Path, part_of: Mapping[str, str]) -> list[SectionInput]:
    """The measured slides of a converted study that have a part.

    Args:
        study: folder that `past convert` wrote.
        part_of: slide code → part.

    Raises:
        InputError: ``study.not_converted`` or ``slide.no_mpp``.
    """
    return [
        SectionInput(
            slide=study / slide["file"], table=study / slide["cells"]["path"],
            slide_code=slide["code"], patient=slide["patient"], part=part_of[slide["code"]],
            mpp=mpp_of(slide), slide_sha256=content_hash(study / slide["file"])[0],
            table_sha256=content_hash(study / slide["cells"]["path"])[0],
        )
        for slide in converted_study(study)["slides"]
        if slide["code"] in part_of and slide["cells"] and slide["cells"]["n_genes"]
    ]  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """The counts of a section on the model's panel, with the positions in both units.

    `missing` genes of the panel are not in its table; their counts are 0.
    """

    given: SectionInput
    xy: NDArray[np.float32]
    counts: csr_matrix
    totals: NDArray[np.float64]
    missing: int = 0

    @property
    def xy_um(self) -> NDArray[np.float64]:
        """(n, 2) positions in µm."""
        return self.xy.astype(np.float64) * self.given.mpp

    def slide(self) -> Slide:
        """The slide, opened, with the rows on it."""
        from ml.io.slides import open_slide

        reader = open_slide(self.given.slide, mpp=self.given.mpp)
        return Slide(reader, self.xy, self.given.mpp)


@dataclass(frozen=True)
class Tables:
    """All sections on one panel."""

    sections: list[Measured]
    symbols: list[str]
    row_kind: Literal["cell", "spot"]
    spot_diameter_um: float | None


def read_tables(
    given: list[SectionInput],
    max_genes: int = MAX_GENES,
    scale_over: Literal["panel", "table"] = "panel",
    panel: list[str] | None = None,
    partial: bool = False,
) -> Tables:
    """Read the sections' counts on a panel, by default that which the training tables share.

    Args:
        max_genes: of a larger shared panel, the genes with most counts in the training part.
        scale_over: whether a row is scaled by its counts over the panel or over its whole table.
        panel: the genes of a model, all of which each table must have.
        partial: whether tables may lack some of them; they need `LEAST_SHARED` at least.

    Raises:
        InputError: ``train.mixed_rows``, ``genes.none_shared``, ``genes.too_few_shared`` or
            ``calibrate.genes``.
    """
    from ml.io.celltable import CellTable

    tables = [CellTable.open(s.table) for s in given]
    kinds = {(t.row_kind, t.spot_diameter_um) for t in tables}
    if len(kinds) > 1:
        raise InputError(
            "train.mixed_rows",
            "sections",
            "They mix cells with spots, or spots of different diameters.",
            "Train one model on cells and another on spots.",
        )
    ordered = panel or _shared_panel(tables, given, max_genes)
    genes = Vocabulary(tuple(ordered), np.ones(len(ordered), np.float32))
    sections = []
    for table, section in zip(tables, given, strict=True):
        columns, positions = genes.align(table.symbols, section.slide_code)
        _check_shared(len(columns), ordered, section.slide_code)
        if panel and not partial and len(columns) < len(panel):
            raise InputError(
                "calibrate.genes",
                f"slide {section.slide_code}",
                f"Its table has {len(columns)} of the model's {len(panel)} genes.",
                "Give studies whose tables have them all.",
            )
        counts = _on_panel(table.counts(), columns, positions, len(ordered))
        totals = table.totals() if scale_over == "table" else np.asarray(counts.sum(axis=1)).ravel()
        lacking = len(ordered) - len(columns)
        sections.append(Measured(section, table.xy(), counts, totals.astype(np.float64), lacking))
    kind, diameter = kinds.pop()
    return Tables(sections, ordered, cast(Literal["cell", "spot"], kind), diameter)


def _check_shared(shared: int, panel: list[str], slide: str) -> None:
    if shared < min(LEAST_SHARED, len(panel)):
        raise InputError(
            "genes.too_few_shared",
            f"slide {slide}",
            f"Its table shares {shared} of the {len(panel)} genes; {LEAST_SHARED} are needed.",
            "Leave the slide out, or check that gene symbols are of one kind.",
        )


def _shared_panel(tables: list[Any], given: list[SectionInput], max_genes: int) -> list[str]:
    """The genes that all training tables have, or those with most counts of them."""
    training = [t for t, s in zip(tables, given, strict=True) if s.part == "train"]
    shared = set(training[0].symbols).intersection(*(t.symbols for t in training))
    ordered = [symbol for symbol in training[0].symbols if symbol in shared]
    if not ordered:
        raise InputError(
            "genes.none_shared",
            "sections",
            "The training tables have no gene in common.",
            "Train on tables of one panel.",
        )
    if len(ordered) > max_genes:
        return _most_counted(training, ordered, max_genes)
    return ordered


def _most_counted(training: list[Any], ordered: list[str], limit: int) -> list[str]:
    sums = dict.fromkeys(ordered, 0.0)
    for table in training:
        for symbol, total in zip(
            table.symbols, np.asarray(table.counts().sum(axis=0)).ravel(), strict=True
        ):
            if symbol in sums:
                sums[symbol] += float(total)
    return sorted(ordered, key=lambda symbol: -sums[symbol])[:limit]


def _on_panel(
    counts: csr_matrix, columns: NDArray[np.int64], positions: NDArray[np.int64], genes: int
) -> csr_matrix:
    """Counts with the given columns moved to their panel positions; genes not measured are 0."""
    to = csr_matrix((np.ones(len(columns)), (columns, positions)), shape=(counts.shape[1], genes))
    moved = csr_matrix(counts.astype(np.float64) @ to)
    moved.sort_indices()
    return moved


def pictures_of(sections: list[Measured]) -> dict[str, list[Picture]]:
    """Overviews of the sections' slides by part, each slide once."""
    seen = {(s.given.part, s.given.slide_sha256): s for s in sections}
    found: dict[str, list[Picture]] = {}
    for (part, _), section in seen.items():
        given = section.given
        picture = Picture.of(given.slide_code, section.slide().reader, given.mpp)
        found.setdefault(part, []).append(picture)
    return found


def spot_pitch(sections: list[Measured]) -> float:
    """Median distance in µm from a spot to the nearest other spot."""
    found = [nearest(s.xy_um, 1, np.inf) for s in sections]
    distances = np.concatenate([d[i >= 0] for i, d in found])
    return float(np.median(distances)) if len(distances) else 0.0


def model_config(tables: Tables, encoder: str, architecture: Architecture) -> ModelConfig:
    """Config of a model for these tables; what is fitted comes from the training part alone.

    Spots get a neighbourhood of one and a half pitches, so that it holds the ring around each.
    """
    training = [s for s in tables.sections if s.given.part == "train"]
    spots = tables.row_kind == "spot"
    pitch = spot_pitch(training) if spots else None
    if pitch:
        architecture = replace(architecture, radius_um=1.5 * pitch)
    genes = len(tables.symbols)
    rank = min(architecture.rank, genes, architecture.dim)
    expressed = max(int(np.diff(s.counts.indptr).max(initial=1)) for s in training)
    architecture = replace(
        architecture, rank=rank, context=max(1, min(architecture.context, expressed))
    )
    counts = csr_matrix(vstack([s.counts for s in training]))
    entry, spec, provenance = encoders.get(encoder), None, {"name": encoder, "sha256": None}
    if entry.kind == "dense":
        spec = default_spec(tables.row_kind, tables.spot_diameter_um, encoder)
        provenance = entry.provenance(load_encoder(encoder, device()).module)
    return ModelConfig(
        encoder=encoder,
        features=spec,
        architecture=architecture,
        vocabulary=Vocabulary.fit(counts, tables.symbols),
        row_kind=tables.row_kind,
        spot_diameter_um=tables.spot_diameter_um,
        spot_pitch_um=pitch,
        mpp=float(np.median([s.given.mpp for s in training])),
        provenance={"encoder": provenance},
    )


def read_images(tables: Tables, config: ModelConfig, work: Path, report: Report) -> list[Section]:
    """Image inputs of all sections.

    Features are kept in `work` under the hashes of what they are made from; crops are read when
    they are needed.
    """
    keep_freed_memory()
    sections: list[Section] = []
    sizes = np.array([max(len(s.xy), 1) for s in tables.sections], float)
    ends = np.cumsum(sizes) / sizes.sum()
    for number, measured in enumerate(tables.sections):
        span = (float(ends[number - 1]) if number else 0.0, float(ends[number]))
        images = row_images(
            measured.slide(), config, device(), work / "images" / _file_of(measured, config),
            measured.given.slide_code, report, span,
        )  # fmt: skip
        given = measured.given
        sections.append(
            Section(
                given.slide_code,
                given.patient,
                given.part,
                measured.xy_um,
                measured.counts,
                measured.totals,
                images,
            )
        )
    return sections


def _file_of(measured: Measured, config: ModelConfig) -> str:
    """Name of a section's features: the hashes of all that they are made from.

    The resolution is part of it: the same file at another mpp has other windows.
    """
    given, spec = measured.given, config.features
    encoder = str(config.provenance.get("encoder", {}).get("sha256") or "")[:16]
    return (
        f"{given.slide_sha256[:16]}-{given.table_sha256[:16]}-{given.mpp:.6f}-"
        f"{spec.digest() if spec else ''}{encoder}.f16"
    )


@dataclass(frozen=True)
class Start:
    """A model with its standardisation, the training rows, and where its members start from."""

    model: PAST
    train: Corpus
    loadings: NDArray[np.float32]
    ridge: Ridge | None
    penalty: float | None


def build(config: ModelConfig, training: list[Section], penalty: float | None = None) -> Start:
    """A model whose statistics are those of the training sections.

    Args:
        penalty: of the ridge that training starts from; None chooses it by leaving slides out.
    """
    model = PAST(config).to(device())
    train = Corpus(training, config)
    if len(train.measured) == 0:
        raise InputError(
            "train.no_counts",
            "training sections",
            "No row has a count of the panel's genes.",
            "Train on tables with measured expression.",
        )
    loadings = principal_programmes(train, config.architecture.rank)
    if config.features is None:
        return Start(model, train, loadings, None, None)
    if not config.per_slide:
        mean, scale = feature_moments([cast(NDArray[np.float16], s.images) for s in training])
        model.feature_mean.copy_(torch.from_numpy(mean))
        model.feature_scale.copy_(torch.from_numpy(scale))
    ridge, chosen = ridge_to_programmes(model, train, loadings, penalty)
    return Start(model, train, loadings, ridge, chosen)


def architecture_of(params: dict[str, Any]) -> Architecture:
    """The preset's sizes with the parameters' own over them.

    Raises:
        InputError: ``train.preset``.
    """
    preset = params.get("preset") or "small"
    if preset not in PRESETS:
        raise InputError(
            "train.preset",
            "preset",
            f"There is no preset {preset!r}.",
            f"Choose one of: {', '.join(PRESETS)}.",
        )
    return replace(Architecture(), **{**PRESETS[preset], **(params.get("architecture") or {})})


def past_version() -> str:
    """Version of the installed package, or ``unreleased``."""
    try:
        return version("past-workbench")
    except PackageNotFoundError:
        return "unreleased"
