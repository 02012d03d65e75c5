"""Where a training stands, kept so that it can go on after any interruption."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ml.models.checkpoint import write_json, write_tensors

STATE = "state.json"


@dataclass
class Progress:
    """Where a training stands; with the tensors beside it, all that resuming needs.

    No state of random generators is among it: all that is random in a step follows from the seed
    and the step's number.

    Attributes:
        identity: of data and settings.
        member, phase: at work; `phase` counts within the member.
        epoch, batch: finished epochs of the phase, and batches of the one at work.
        best, best_epoch, stale: of the score that chooses.
        step: of the optimiser, over all phases and members.
        averaged: steps in the moving average.
        sums: of the epoch's losses so far, by name, each times its rows; ``rows`` are these.
    """

    identity: str
    member: int = 0
    phase: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    stale: int = 0
    step: int = 0
    averaged: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def begin_phase(self, member: int, phase: int) -> None:
        """Stand before the first epoch of a phase."""
        self.member, self.phase = member, phase
        self.epoch = self.batch = self.best_epoch = self.stale = self.averaged = 0
        self.best, self.sums = -math.inf, {}


class Checkpoints:
    """Checkpoints of one training in a folder; None keeps none.

    The tensors are written first, then the JSON that names them, then older tensors go: whenever a
    process is killed, the last JSON names a complete file.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def save(self, progress: Progress, tensors: dict[str, Tensor], more: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        at = progress
        name = f"state-{at.member}-{at.phase}-{at.epoch}-{at.batch}.safetensors"
        write_tensors(self.folder / name, tensors)
        state = asdict(progress)
        state["best"] = None if math.isinf(progress.best) else progress.best
        write_json(self.folder / STATE, {"progress": state, "tensors": name, **more})
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink()

    def load(self, identity: str) -> tuple[Progress, dict[str, Tensor], dict[str, Any]] | None:
        """The checkpoint of this very training; None where there is none.

        Raises:
            ValueError: the checkpoint is of another training.
        """
        path = self.folder / STATE if self.folder else None
        if path is None or not path.exists():
            return None
        state = json.loads(path.read_text())
        progress = state.pop("progress")
        if progress["identity"] != identity:
            raise ValueError("the checkpoint is of another training")
        tensors = load_file(path.parent / state.pop("tensors"))
        best = progress.pop("best")
        return Progress(**progress, best=-math.inf if best is None else best), tensors, state


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
