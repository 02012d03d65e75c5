"""Watches losses and gradients, and says which batch it was when they are no numbers any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml.errors import InputError
from ml.models.checkpoint import write_json
from ml.training.distributed import Ranks
from ml.training.engine import Batch

DIVERGED = "diverged"


@dataclass(frozen=True)
class Seen:
    """A step that was looked at: losses are means over the rows of all ranks.

    Attributes:
        rows: of the step, over all ranks.
        rate: the highest learning rate of its groups.
    """

    number: int
    rows: int
    rate: float
    losses: dict[str, float]
    norm: float


@dataclass(frozen=True)
class _Watched:
    number: int
    rows: int
    rate: float
    losses: dict[str, Tensor]
    norm: Tensor
    where: list[Callable[[], dict[str, Any]]]


class Guard:
    """Steps whose losses were not looked at yet.

    On a CPU each is looked at before its weights are changed. On a GPU looking means waiting, so
    that is left to `checked`; a checkpoint is only written after it.

    Args:
        folder: of the checkpoints; what is found goes to ``diverged/`` in it.
    """

    def __init__(self, folder: Path | None, device: torch.device, ranks: Ranks) -> None:
        self._folder, self._ranks = folder, ranks
        self._at_once = device.type == "cpu"
        self._steps: list[_Watched] = []

    def watch(
        self,
        step: int,
        rate: float,
        losses: dict[str, Tensor],
        norm: Tensor,
        batches: list[Batch],
    ) -> None:
        """A step about to be taken.

        Raises:
            InputError: ``train.diverged``, on a CPU.
        """
        rows = sum(batch.total for batch in batches)
        self._steps.append(_Watched(step, rows, rate, losses, norm, [b.where for b in batches]))
        if self._at_once and not isfinite(float(sum(losses.values(), norm))):
            self._raise(self._steps[-1])

    def checked(self) -> Iterator[Seen]:
        """The steps since the last time; all ranks call it together.

        Raises:
            InputError: ``train.diverged`` at the first that is no number.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        # In one tensor: the device is waited for once, and the ranks talk once.
        own = [torch.stack([*step.losses.values(), step.norm]).float() for step in steps]
        means = self._ranks.total(torch.stack(own)) / self._ranks.size
        for step, (*found, norm) in zip(steps, means.tolist(), strict=True):
            if not all(map(isfinite, (*found, norm))):
                self._raise(step)
            losses = dict(zip(step.losses, found, strict=True))
            yield Seen(step.number, step.rows, step.rate, losses, norm)

    def _raise(self, step: _Watched) -> None:
        where = [said() for said in step.where]
        values = {name: str(float(value)) for name, value in step.losses.items()}
        place = "no file, for no checkpoints are kept"
        if self._folder is not None:
            path = self._folder / DIVERGED / f"step-{step.number}-rank-{self._ranks.rank}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                path,
                {
                    "step": step.number,
                    "losses": values,
                    "gradient_norm": str(float(step.norm)),
                    "rows": where,
                },
            )
            place = str(path)
        slides = sorted({slide for rows in where for slide in rows})
        raise InputError(
            "train.diverged",
            f"step {step.number}, slides {', '.join(slides[:5])}{' …' if len(slides) > 5 else ''}",
            f"The losses are no finite numbers any more ({values}). The rows are in {place}; the "
            "last checkpoint is from before.",
            "Look at these rows for broken counts or images; else lower learning_rate or clip.",
        )
