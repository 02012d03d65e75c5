"""How a model is trained: the values that a job, a configuration file or a trial may set."""

from __future__ import annotations

from dataclasses import dataclass, field

from ml.models.past import LossWeights
from ml.training.engine import Optimisation, within


@dataclass(frozen=True)
class AlignSettings:
    """How the shared space of a model on features is trained, after its expression.

    Attributes:
        epochs: at most, for each member; 0 leaves the phase out.
        batch: rows per step, each the others' negative.
        rows: training rows per epoch at most, drawn anew each time; None takes all.
        learning_rate: of AdamW.
        patience: epochs without a better recall on validation before the phase ends.
    """

    epochs: int = 6
    batch: int = 256
    rows: int | None = 4096
    learning_rate: float = 2e-3
    patience: int = 2

    def __post_init__(self) -> None:
        """Raises InputError ``train.setting`` for a value that no training can be run with."""
        within("align.epochs", self.epochs, 0)
        within("align.batch", self.batch, 2)
        within("align.rows", self.batch if self.rows is None else self.rows, 2)
        within("align.learning_rate", self.learning_rate, 0)
        within("align.patience", self.patience, 1)


@dataclass(frozen=True)
class Settings:
    """How a model is trained.

    Attributes:
        epochs: passes over the training part, for each member.
        batch: rows per batch of one process.
        learning_rate: the highest; warm-up and cosine follow from it.
        stop_after: epochs after which each member is finished, though the schedule is laid out for
            `epochs`; None runs them all. 0 keeps the linear start.
        patience: epochs without a better validation Pearson before a member is finished. Training
            first loses a little against the linear start and passes it after some epochs.
        seed: everything random follows from it.
        losses: weight of each loss. Models on features are trained for expression first and for the
            contrast and hidden genes afterwards, on crops for all at once.
        joint: models on features too are trained for all losses at once; for comparison. So they
            are where expression has no weight.
        align: the second of these phases.
        optimisation: see there.
    """

    epochs: int = 10
    batch: int = 256
    learning_rate: float = 5e-4
    stop_after: int | None = None
    patience: int = 6
    seed: int = 0
    losses: LossWeights = field(default_factory=LossWeights)
    joint: bool = False
    align: AlignSettings = field(default_factory=AlignSettings)
    optimisation: Optimisation = field(default_factory=Optimisation)

    def __post_init__(self) -> None:
        """Raises InputError ``train.setting`` for a value that no training can be run with."""
        within("batch", self.batch, 1)
        within("learning_rate", self.learning_rate, 0)
        within("stop_after", self.stop_after or 0, 0)
        within("patience", self.patience, 1)
