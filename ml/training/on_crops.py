"""The training job with an encoder that is trained on crops: its sections become a corpus."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ml.errors import InputError
from ml.models.config import ModelConfig
from ml.models.past import PAST
from ml.report import Report
from ml.tokens.files import VocabularyFile
from ml.training.distributed import Ranks
from ml.training.engine import Phase
from ml.training.from_shards import ShardTraining, phase_on
from ml.training.parts import Parts
from ml.training.prepare import Measured, Tables
from ml.training.settings import Settings
from ml.training.shards.build import build_corpus
from ml.training.shards.layout import Settings as CorpusSettings
from ml.training.shards.reader import Corpus
from ml.training.shards.sources import UNSTATED, Source
from ml.training.shards.to_model import ToModel

CORPUS = "corpus"
_STUDY = "sections"
# Rows of a batch, and rows that a validation looks at, where there is no GPU.
_CPU_BATCH, _CPU_VALIDATION = 64, 2048


def phases_on_crops(
    model: PAST, tables: Tables, settings: Settings, scope: str, work: Path, report: Report
) -> list[Phase]:
    """The phases of a model on crops, once its sections are a corpus in `work`.

    The corpus is built where an earlier attempt left it. Its vocabulary is the model's, whose means
    come from the training sections.

    Args:
        scope: what is held out, as `audit` says it.

    Raises:
        InputError: ``train.scale_over``.
    """
    config = model.config
    if config.scale_over != "panel":
        raise InputError(
            "train.scale_over",
            "scale_over",
            "Models on crops scale a row by its counts over the panel.",
            "Leave it out, or choose a dense encoder.",
        )
    corpus = _corpus(tables, config, work / CORPUS, report)
    device = model.feature_mean.device
    gpu = device.type == "cuda"
    job = ShardTraining(
        corpus=corpus,
        parts=_parts(corpus, tables.sections, scope),
        encoder=config.encoder,
        architecture=config.architecture,
        settings=settings if gpu else replace(settings, batch=min(settings.batch, _CPU_BATCH)),
        workers=2 if gpu else 0,
        validation_cells=ShardTraining.validation_cells if gpu else _CPU_VALIDATION,
    )
    return [phase_on(job, ToModel(corpus, config.architecture, device), Ranks())]


def _corpus(tables: Tables, config: ModelConfig, place: Path, report: Report) -> Corpus:
    sections = tables.sections
    panel = config.vocabulary
    fitted = [
        {"slide": s.given.slide_code, "patient": s.given.patient, "study": _STUDY,
         "sha256": s.given.table_sha256}
        for s in sections if s.given.part == "train"
    ]  # fmt: skip
    vocabulary = VocabularyFile(
        ("",) * len(panel.symbols),
        panel.symbols,
        {UNSTATED: panel.nonzero_means.astype(np.float64)},
        {"tables": fitted},
    )
    settings = CorpusSettings(
        neighbours=max(config.architecture.neighbours, 1),
        radius_um=config.architecture.radius_um,
    )
    sources = [
        Source(
            study=_STUDY, slide=s.given.slide_code, patient=s.given.patient, site="",
            technology="", mpp=s.given.mpp, table=s.given.table, image=s.given.slide,
        )
        for s in sections
    ]  # fmt: skip
    build_corpus(place, sources, report, vocabulary=vocabulary, settings=settings)
    return Corpus(place)


def _parts(corpus: Corpus, sections: list[Measured], scope: str) -> Parts:
    """The parts that were planned for the sections."""
    part_of = {s.given.slide_code: s.given.part for s in sections}
    slides = corpus.manifest.slides
    train, validation, test = (
        tuple(n for n, slide in enumerate(slides) if part_of[slide.slide] == part)
        for part in ("train", "validation", "test")
    )
    filled = {shard.slide for shard in corpus.manifest.shards}
    # A held-out slide without counts has nothing to be held against.
    return Parts(
        train,
        tuple(n for n in validation if n in filled),
        tuple(n for n in test if n in filled),
        scope,
    )
