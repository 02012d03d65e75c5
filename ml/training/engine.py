"""What the training loop is given: batches of rows, phases, and what a phase is judged by.

Two kinds of training share one loop (`ml.training.loop`): in memory, on features of a frozen
encoder (`ml.training.memory`), and from shards, on crops (`ml.training.from_shards`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ml.errors import InputError
from ml.models.batches import CellBatch, ImageBatch
from ml.models.past import LossWeights, Member

_CHOICES = {"precision": ("auto", "float32", "bfloat16"), "compile": ("auto", "on", "off")}
# Scores of a member on the validation part, by name; larger is better.
Validation = Callable[[Member], dict[str, float]]


@dataclass(frozen=True)
class Batch:
    """Rows that one rank trains on at once, on its device.

    Attributes:
        images, cells: the same n rows seen from both sides.
        total: rows that all ranks together take in this round. Rank r has every row r, r + ranks, …
            of them, so that ranks know each other's sizes without asking.
        where: which rows they are, slide code → row numbers as JSON; called only to report.
    """

    images: ImageBatch
    cells: CellBatch
    total: int
    where: Callable[[], dict[str, Any]]

    def __len__(self) -> int:
        return len(self.cells.tokens)


class Source(Protocol):
    """The training rows, every row once an epoch; the order depends on seed and epoch only."""

    def steps(self, epoch: int) -> int:
        """Batches of this rank in an epoch; the same for all ranks."""

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on."""


@dataclass(frozen=True)
class Phase:
    """One part of a member's training.

    Attributes:
        name: as metrics and checkpoints call it.
        losses: their weights; what has none is neither computed nor trained.
        trained: beginnings of the names of the parameters that are trained.
        epochs: that the schedule is laid out for.
        stop_after: epochs after which the phase is over nevertheless; None for all. 0 trains none.
        learning_rate: the highest.
        patience: epochs without a better score before the phase ends.
        score: name of the validation score that chooses the best epoch.
        loss: what the sum of its losses is reported as.
        start_counts: whether the weights that the phase starts from may be the best ones.
        begin: makes the source and the validation of a member, when its phase begins; None without
            a validation part.
    """

    name: str
    losses: LossWeights
    epochs: int
    learning_rate: float
    patience: int
    score: str
    begin: Callable[[Member, int], tuple[Source, Validation | None]]
    trained: tuple[str, ...] = ("",)
    stop_after: int | None = None
    loss: str = "train_loss"
    start_counts: bool = True


@dataclass(frozen=True)
class Optimisation:
    """How gradients become weights, in every phase.

    Attributes:
        weight_decay: of AdamW, for matrices only.
        clip: norm that gradients are clipped to.
        accumulate: batches whose rows make one step, exactly as if they were one batch.
        warmup: epochs of linear warm-up.
        floor: share of the learning rate that the cosine ends at.
        encoder_scale: learning rate of an image encoder that starts from its owner's weights, as a
            share of the others'; one that starts from nothing learns like them.
        layer_decay: factor from each block of a vision transformer to the one before it.
        ema: decay of the moving average of the weights, which is then what is validated and kept;
            0 for none.
        precision: of the networks: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where a GPU has
            it. Losses are computed in float32 in any case, and not in its short form TF32, for
            which the logits of the contrast are too large.
        compile: the image encoder: ``on``, ``off`` or ``auto``: one of crops on a GPU.
        checkpoint_minutes: between checkpoints inside an epoch; each epoch ends with one.
        log_every: steps between metrics; losses wait on a GPU until then.
    """

    weight_decay: float = 0.05
    clip: float = 1.0
    accumulate: int = 1
    warmup: float = 1.0
    floor: float = 0.0
    encoder_scale: float = 0.1
    layer_decay: float = 0.75
    ema: float = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    checkpoint_minutes: float = 10.0
    log_every: int = 50

    def __post_init__(self) -> None:
        """Raises InputError ``train.setting`` for a value that no training can be run with."""
        within("optimisation.accumulate", self.accumulate, 1)
        within("optimisation.log_every", self.log_every, 1)
        within("optimisation.weight_decay", self.weight_decay, 0)
        within("optimisation.clip", self.clip, 1e-9)
        within("optimisation.warmup", self.warmup, 0)
        within("optimisation.floor", self.floor, 0, 1)
        within("optimisation.encoder_scale", self.encoder_scale, 0)
        within("optimisation.layer_decay", self.layer_decay, 0, 1)
        within("optimisation.ema", self.ema, 0, 0.999999)
        within("optimisation.checkpoint_minutes", self.checkpoint_minutes, 0)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(
                    "train.setting",
                    f"optimisation.{name}",
                    f"{getattr(self, name)!r} is no such way.",
                    f"Give one of {', '.join(known)}.",
                )


def within(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a setting that lies outside of its limits.

    Raises:
        InputError: ``train.setting``.
    """
    if not low <= value <= high:
        limits = f"at least {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
        raise InputError(
            "train.setting", name, f"{value} is out of range.", f"Give a number of {limits}."
        )


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything printable; the same on every machine."""
    digest = hashlib.sha256(json.dumps([str(p) for p in parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
