"""Training on a corpus of shards: the rows, the model that starts, and what it ends as."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from ml.errors import InputError
from ml.inference.features import device as best_device
from ml.models import encoders, lora
from ml.models.config import Architecture, ModelConfig
from ml.models.finetune import checkpoint_gradients, freeze
from ml.models.heads import CropHead
from ml.models.past import PAST, Member
from ml.report import Report
from ml.tokens.vocabulary import Vocabulary
from ml.training.distributed import Ranks
from ml.training.engine import Batch, Optimisation, Phase, Source, Validation, seed_of
from ml.training.held_out import HeldOut
from ml.training.loop import Trainer
from ml.training.metrics import Metrics
from ml.training.parts import Parts
from ml.training.settings import Settings
from ml.training.shards.chosen import CellList, batches, split
from ml.training.shards.gather import CorpusBatch
from ml.training.shards.layout import Manifest
from ml.training.shards.loader import CorpusLoader, LoaderConfig
from ml.training.shards.order import Plan
from ml.training.shards.reader import Corpus
from ml.training.shards.to_model import ToModel
from ml.training.start_from_shards import Moments, kept_moments
from ml.training.trust import FIT_ROWS, fit_density_of

# Cells of an embedding pass.
_CHUNK = 256


@dataclass(frozen=True)
class ShardTraining:
    """All that a training on shards is made of.

    Attributes:
        parts: slides of each part.
        encoder: name of the image encoder; it is trained.
        weights: its owner's file, for encoders that have one.
        architecture: sizes; rank and context are cut to what the training cells have.
        workers: processes that read ahead, of each rank.
        by_length: whether the cells of a batch have about the same number of tokens.
        validation_cells: that each validation looks at, about.
        frozen_blocks: the encoder's first blocks that are not trained.
        checkpoint_gradients: compute each block of the encoder twice, to save memory.
        provenance: kept in the model's config.
    """

    corpus: Corpus
    parts: Parts
    encoder: str
    architecture: Architecture
    settings: Settings
    weights: Path | None = None
    workers: int = 0
    by_length: bool = False
    validation_cells: int = 50_000
    frozen_blocks: int = 0
    checkpoint_gradients: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A trained model with what it was trained by; `job` has the sizes that it ended up with."""

    job: ShardTraining
    model: PAST
    trainer: Trainer
    moments: Moments
    to_model: ToModel


class ShardSource(Source):
    """The training cells of a corpus, each once an epoch, shuffled and shared out to the ranks.

    Args:
        slides: that take part.
        seed: of the order, together with the epoch.
    """

    def __init__(self, job: ShardTraining, to_model: ToModel, seed: int, ranks: Ranks) -> None:
        plan = Plan(job.settings.batch, ranks.size, seed % 2**32, by_length=job.by_length)
        cuda = to_model.device.type == "cuda"
        config = LoaderConfig(
            plan, ranks.rank, job.architecture.context, crops=True, workers=job.workers,
            slides=job.parts.train, pin_memory=cuda,
        )  # fmt: skip
        self._loader, self._to_model = CorpusLoader(job.corpus, config), to_model

    def steps(self, epoch: int) -> int:
        self._loader.epoch = epoch
        return len(self._loader)

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The rest of an epoch; the next batch is on its way to the device while one is used."""
        self._loader.epoch, self._loader.position = epoch, first
        order = self._loader.order()
        waiting: Batch | None = None
        for number, batch in enumerate(self._loader, first):
            ready, waiting = waiting, self._batch(batch, order.size(number))
            if ready is not None:
                yield ready
        if waiting is not None:
            yield waiting

    def _batch(self, batch: CorpusBatch, total: int) -> Batch:
        manifest = self._loader.corpus.manifest
        # Not the batch itself: its crops would stay in memory until the losses are looked at.
        slide, row = batch.slide, batch.row
        return Batch(
            self._to_model.crops(batch),
            self._to_model.cells(batch),
            total,
            lambda: named_rows(manifest, slide, row),
        )


def named_rows(manifest: Manifest, slide: Tensor, row: Tensor) -> dict[str, list[int]]:
    """Rows of cell tables by ``STUDY/SLIDE``."""
    found: dict[str, list[int]] = {}
    for number, at in zip(slide.tolist(), row.tolist(), strict=True):
        record = manifest.slides[number]
        found.setdefault(f"{record.study}/{record.slide}", []).append(at)
    return found


def train_from_shards(
    job: ShardTraining,
    checkpoints: Path | None,
    report: Report,
    ranks: Ranks,
    metrics: Metrics | None = None,
    identity: str = "",
) -> Trained:
    """Train, from the last checkpoint of the same training where there is one.

    Args:
        checkpoints: folder; None keeps none.
        identity: of the data; settings and sizes are part of it without being named.

    Returns:
        the model in eval mode, with its density still to be fitted.

    Raises:
        InputError: ``train.encoder``, ``train.mixed_rows``, ``train.no_counts``, ``corpus.…``.
    """
    check_encoder(job.encoder)
    report.stage("Expression of the training cells")
    to_model = ToModel(job.corpus, job.architecture, best_device())
    cells = CellList(job.corpus, job.parts.train)
    moments = kept_moments(
        checkpoints, cells, to_model, job.architecture.rank, job.settings.seed, job.workers,
        report, ranks,
    )  # fmt: skip
    context = max(1, min(job.architecture.context, moments.expressed))
    sizes = replace(job.architecture, rank=len(moments.loadings), context=context)
    job = replace(job, architecture=sizes)
    loaded = _encoder_weights(job)
    model = PAST(model_config(job, loaded[1])).to(to_model.device)
    settings = job.settings
    trainer = Trainer(
        model,
        [phase_on(job, to_model, ranks)],
        optimisation_of(job.encoder, settings.optimisation, job.architecture.lora_rank),
        start=_start(moments, loaded[0]),
        folder=checkpoints,
        report=report,
        identity=repr(
            [identity, job.parts, settings, job.by_length, job.frozen_blocks, ranks.size]
        ),
        seed=settings.seed,
        ranks=ranks,
        metrics=metrics,
    )
    report.stage("Training")
    trainer.run(report.progress)
    model.eval()
    return Trained(job, model, trainer, moments, to_model)


def phase_on(job: ShardTraining, to_model: ToModel, ranks: Ranks) -> Phase:
    """Everything is trained at once: expression keeps the contrast from forgetting it."""
    settings = job.settings

    def begin(member: Member, number: int) -> tuple[Source, Validation | None]:
        head = member.image_encoder
        assert isinstance(head, CropHead)
        if job.architecture.lora_rank:
            lora.train_added(head.encoder)
        elif job.frozen_blocks:
            freeze(head.encoder, job.frozen_blocks)
        if job.checkpoint_gradients:
            checkpoint_gradients(head.encoder)
        seed = seed_of(settings.seed, "order", number)
        source = ShardSource(job, to_model, seed, ranks)
        if not job.parts.validation:
            return source, None
        return source, held_out(job, to_model, "validation", ranks, job.validation_cells)

    return Phase(
        name="joint",
        losses=settings.losses,
        epochs=settings.epochs,
        stop_after=settings.stop_after,
        learning_rate=settings.learning_rate,
        patience=settings.patience,
        score="validation_pcc",
        begin=begin,
        start_counts=False,
    )


def optimisation_of(encoder: str, how: Optimisation, lora_rank: int = 0) -> Optimisation:
    """How a model with this encoder is optimised.

    An encoder that starts from nothing learns as fast as the rest, in all its blocks, and so does
    what is added to one: lower rates are for weights that are good already.
    """
    if encoders.get(encoder).files and not lora_rank:
        return how
    return replace(how, encoder_scale=1.0, layer_decay=1.0)


def held_out(
    job: ShardTraining, to_model: ToModel, part: str, ranks: Ranks, most: int | None
) -> HeldOut:
    """The cells of a held-out part, or about `most` of them."""
    return HeldOut(
        job.corpus,
        job.parts.held_out[part],
        to_model,
        most=most,
        context=job.architecture.context,
        workers=job.workers,
        contrast=bool(job.settings.losses.contrast),
        ranks=ranks,
        seed=job.settings.seed,
    )


def check_encoder(name: str) -> encoders.EncoderEntry:
    """The entry of an encoder that can be trained on crops.

    Raises:
        InputError: ``encoder.unknown`` or ``train.encoder``.
    """
    entry = encoders.get(name)
    if not entry.patch:
        able = [n for n in encoders.names() if encoders.get(n).patch]
        raise InputError(
            "train.encoder",
            f"encoder {name}",
            "It gives maps of whole tiles; a corpus holds crops.",
            f"Choose one of {', '.join(able)}, or train on a study: [data] study = ….",
        )
    return entry


def check_lora(name: str, architecture: Architecture, frozen_blocks: int = 0) -> None:
    """Refuse an adaptation of what is trained anyway, or of nothing.

    Raises:
        InputError: ``train.lora``.
    """
    if not architecture.lora_rank:
        return
    entry = encoders.get(name)
    if architecture.lora_rank < 0 or frozen_blocks or not (entry.patch and entry.files):
        raise InputError(
            "train.lora",
            f"architecture.lora_rank, encoder {name}",
            "It adapts a transformer that has its owner's weights, all of which stay as they are.",
            "Leave lora_rank out; or choose an encoder with weights, without frozen_blocks.",
        )


def _encoder_weights(job: ShardTraining) -> tuple[dict[str, Tensor] | None, dict[str, Any]]:
    """What the encoder starts from, where it is somebody's; and its provenance."""
    entry = encoders.get(job.encoder)
    if not entry.files:
        if job.weights is not None:
            raise InputError(
                "train.encoder_weights",
                f"encoder {job.encoder}",
                "It is trained from scratch; there is no owner's file to read.",
                "Leave out [model] weights.",
            )
        return None, {"name": entry.name, "architecture": entry.architecture, "sha256": None}
    module = entry.load(job.weights)
    return module.state_dict(), entry.provenance(module)


def _start(moments: Moments, encoder: dict[str, Tensor] | None) -> Callable[[Member], None]:
    """Gives a new member its gene statistics, programmes and encoder."""

    @torch.no_grad()
    def start(member: Member) -> None:
        head = member.expression_head
        for name in ("mean", "scale", "loadings"):
            getattr(head, name).copy_(torch.from_numpy(getattr(moments, name)))
        if encoder is not None:
            image = member.image_encoder
            assert isinstance(image, CropHead)
            image.encoder.load_state_dict({**lora.adapter_state(image.encoder), **encoder})

    return start


def model_config(job: ShardTraining, encoder: dict[str, Any]) -> ModelConfig:
    """Config of the model; what is fitted comes from the training slides alone.

    Raises:
        InputError: ``train.mixed_rows``.
    """
    slides = [job.corpus.manifest.slides[n] for n in job.parts.train]
    every = [job.corpus.manifest.slides[n] for n in job.parts.part_of()]
    if len({(s.row_kind, s.sides_um) for s in every}) > 1:
        raise InputError(
            "train.mixed_rows",
            job.corpus.place,
            "Its slides mix cells with spots, or spots of different diameters.",
            "Train one model on cells and another on spots.",
        )
    spots = slides[0].row_kind == "spot"
    return ModelConfig(
        encoder=job.encoder,
        features=None,
        architecture=job.architecture,
        vocabulary=usual_vocabulary(job),
        row_kind=cast(Literal["cell", "spot"], slides[0].row_kind),
        # A spot's own crop is as wide as the spot.
        spot_diameter_um=slides[0].sides_um[1] if spots else None,
        spot_pitch_um=_pitch(job) if spots else None,
        mpp=float(np.median([s.mpp for s in slides])),
        provenance={**job.provenance, "encoder": encoder},
    )


def usual_vocabulary(job: ShardTraining) -> Vocabulary:
    """The vocabulary with the means of the technology that most training cells come from."""
    manifest, cells = job.corpus.manifest, dict[str, int]()
    training = set(job.parts.train)
    for shard in manifest.shards:
        if shard.slide in training:
            name = manifest.slides[shard.slide].technology
            cells[name] = cells.get(name, 0) + shard.rows
    most = max(cells, key=lambda name: cells[name])
    file = job.corpus.vocabulary
    return file.technology(most if most in file.means else next(iter(file.means)))


def _pitch(job: ShardTraining) -> float | None:
    """Median distance in µm from a spot of the training slides to the nearest other one."""
    from ml.training.corpus import nearest

    training, found = set(job.parts.train), []
    for index, record in enumerate(job.corpus.manifest.shards):
        if record.slide in training:
            shard = job.corpus.shard(index)
            near, distance = nearest(shard.arrays["xy_um"].astype(np.float64), 1, np.inf)
            found.append(distance[near >= 0])
    every = np.concatenate(found)
    return float(np.median(every)) if len(every) else None


def fit_density(job: ShardTraining, trained: Trained, ranks: Ranks) -> dict[str, Any]:
    """Fit the model's density to embeddings of its training cells; see `fit_density_of`."""

    def embeddings(slides: tuple[int, ...]) -> Tensor:
        cells = CellList(job.corpus, slides)
        return _embedded(cells, cells.sample(FIT_ROWS, job.settings.seed), job, trained, ranks)

    found = {part: embeddings(slides) for part, slides in job.parts.held_out.items()}
    return fit_density_of(trained.model, embeddings(job.parts.train), found)


@torch.no_grad()
def _embedded(
    cells: CellList, wanted: Any, job: ShardTraining, trained: Trained, ranks: Ranks
) -> Tensor:
    """What the density is over (n, dim) of some cells; each rank computes its share."""
    device = trained.to_model.device
    chunks = split(wanted, _CHUNK)
    cuda, own = device.type == "cuda", chunks[ranks.rank :: ranks.size]
    rows = [torch.zeros(0, job.architecture.dim, device=device)]
    for batch in batches(cells, own, 1, crops=True, workers=job.workers, pin_memory=cuda):
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            rows.append(trained.model.described(trained.to_model.crops(batch)).float())
    sizes = [sum(map(len, chunks[rank :: ranks.size])) for rank in range(ranks.size)]
    return ranks.gather(torch.cat(rows), sizes)
