"""The training loop: phases of epochs of steps, the same on one CPU and on many GPUs.

It is seeded to the batch, so that a training that was killed anywhere ends with the same weights as
one that was not (bit for bit on a CPU), and it is stopped by the validation part.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ml.errors import InputError
from ml.inference.features import stop_if_asked
from ml.models.past import PAST, Member
from ml.training.checkpoints import Checkpoints, Progress, under
from ml.training.distributed import Ranks
from ml.training.diverged import Guard
from ml.training.engine import Batch, Optimisation, Phase, Source, Validation, seed_of
from ml.training.metrics import Metrics
from ml.training.optimiser import (
    MovingAverage,
    adamw,
    load_optimiser,
    optimiser_tensors,
    schedule,
    set_rate,
)
from ml.training.step import Step

if TYPE_CHECKING:
    from ml.report import Report

# Beginning of the scores that are reported while training goes on; files have all of them.
LIVE = "validation_"


@dataclass
class _Work:
    """What a phase works with."""

    phase: Phase
    member: Member
    source: Source
    validation: Validation | None
    step: Step
    optimiser: torch.optim.AdamW
    average: MovingAverage
    best: dict[str, Tensor]

    def candidate(self) -> dict[str, Tensor]:
        """A copy of the weights as they would be kept."""
        with self.average.in_place():
            return {k: v.clone() for k, v in self.member.state_dict().items()}


class Trainer:
    """Trains the members of a model one after the other, each through all phases.

    Args:
        model: built from its config with the standardisation buffers set.
        phases: in order; each leaves the member at its best.
        how: of optimisation.
        start: sets a new member's fixed buffers and the weights that training starts from.
        folder: where checkpoints are kept; the same folder resumes. None keeps none.
        identity: describes data and settings; a checkpoint of something else is not resumed.
        seed: everything random follows from it.
        ranks: the processes that train together, all with the same arguments.
        metrics: written beside what is reported.
    """

    def __init__(
        self,
        model: PAST,
        phases: list[Phase],
        how: Optimisation,
        start: Callable[[Member], None],
        folder: Path | None,
        report: Report,
        identity: str,
        seed: int = 0,
        ranks: Ranks | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.model, self.phases, self.how, self.start = model, phases, how, start
        self.report, self.seed = report, seed
        self.ranks, self.metrics = ranks or Ranks(), metrics or Metrics(None)
        self.device = model.feature_mean.device
        said = [identity, seed, self.ranks.size, [_as_dict(p) for p in phases], asdict(how)]
        text = json.dumps([*said, model.config.as_dict()], sort_keys=True)
        self.progress = Progress(hashlib.sha256(text.encode()).hexdigest())
        self.checkpoints = Checkpoints(folder)
        self.history: list[dict[str, Any]] = []
        # In this process; a resumed training starts from 0.
        self.rows_seen = {phase.name: 0 for phase in phases}
        self.seconds = {phase.name: 0.0 for phase in phases}
        self._saved_at = time.monotonic()

    def run(self, advance: Callable[[float], None] = lambda share: None) -> None:
        """Train to the end, from the last checkpoint where there is one.

        Args:
            advance: called with the share of all epochs that is done.

        Raises:
            InputError: ``train.diverged`` or ``train.memory``.
        """
        self._advance = advance
        saved = self._resume()
        while self.progress.member < len(self.model.members):
            member, number = self.progress.member, self.progress.phase
            began = time.perf_counter()
            with _memory_errors(self.phases[number]):
                self._phase(saved)
            self.seconds[self.phases[number].name] += time.perf_counter() - began
            saved = {}
            last = number + 1 == len(self.phases)
            self.progress.begin_phase(member + last, 0 if last else number + 1)
            self._save(None)
        self.model.eval()

    def _phase(self, saved: dict[str, Tensor]) -> None:
        """Train a member for a phase and leave it at its best on validation."""
        work, progress = self._begin(saved), self.progress
        phase = work.phase
        if not saved and phase.start_counts:
            self._judge(work, {"epoch": 0})
        last = phase.epochs if phase.stop_after is None else phase.stop_after
        while progress.epoch < last and progress.stale < phase.patience:
            losses = self._epoch(work)
            self.report.metric(phase.loss, sum(losses.values()), progress.step)
            progress.epoch += 1
            progress.batch, progress.sums = 0, {}
            said = {phase.loss: sum(losses.values()), "losses": losses}
            self._judge(work, {"epoch": progress.epoch, **said})
            self._save(work)
            self._tell(0.0)
        work.member.load_state_dict(work.best)

    def _begin(self, saved: dict[str, Tensor]) -> _Work:
        progress = self.progress
        phase, number = self.phases[progress.phase], progress.member
        member = self.model.networks()[number]
        if not saved and progress.phase == 0:
            torch.manual_seed(seed_of(self.seed, "init", number))
            member.load_state_dict(Member(self.model.config).to(self.device).state_dict())
            self.start(member)
        used = Member.used(phase.losses)
        for name, parameter in member.named_parameters():
            trained = name.startswith(phase.trained) and name.startswith(used)
            parameter.requires_grad_(trained)
        source, validation = phase.begin(member, number)
        optimiser = adamw(member, self.how, phase.learning_rate)
        average = MovingAverage(member, self.how.ema)
        best = {k: v.clone() for k, v in member.state_dict().items()}
        if saved:
            best = {k: v.to(self.device) for k, v in under(saved, "best.").items()}
            load_optimiser(optimiser, member, under(saved, "optimiser."))
            average.load(under(saved, "average."), progress.averaged)
        step = Step.of(member, phase.losses, self.how, self.ranks)
        return _Work(phase, member, source, validation, step, optimiser, average, best)

    def _epoch(self, work: _Work) -> dict[str, float]:
        """One pass over the training part, every row once; returns the mean losses."""
        progress, phase = self.progress, work.phase
        each = self.how.accumulate
        count = -(-work.source.steps(progress.epoch) // each)
        guard = Guard(self.checkpoints.folder, self.device, self.ranks)
        _set_training(work.member, True)
        for batches in self._steps(work.source):
            stop_if_asked(self.report)
            along = progress.epoch + progress.batch / each / count
            rate = phase.learning_rate * schedule(along, phase.epochs, self.how)
            set_rate(work.optimiser, rate)
            self._step(work, batches, rate, guard)
            done = -(-progress.batch // each)
            if done % self.how.log_every == 0 or done == count:
                self._read_back(guard)
                self._tell(done / count)
                age = time.monotonic() - self._saved_at
                # All save together, so one clock says when.
                if self.ranks.first_says(age > 60 * self.how.checkpoint_minutes):
                    self._save(work)
        _set_training(work.member, False)
        return self._mean_losses()

    def _steps(self, source: Source) -> Iterator[list[Batch]]:
        """The rest of the epoch, in batches that make a step together."""
        rest = source.batches(self.progress.epoch, self.progress.batch)
        while batches := list(itertools.islice(rest, self.how.accumulate)):
            yield batches

    def _step(self, work: _Work, batches: list[Batch], rate: float, guard: Guard) -> None:
        progress = self.progress
        where = (self.seed, work.phase.name, progress.member, progress.epoch, self.ranks.rank)
        seeds = [seed_of("step", *where, progress.batch + i) for i in range(len(batches))]
        work.optimiser.zero_grad(set_to_none=True)
        losses = work.step.gradients(batches, seeds)
        trained = [p for group in work.optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.how.clip)
        progress.step += 1
        progress.batch += len(batches)
        guard.watch(progress.step, rate, losses, norm, batches)
        work.optimiser.step()
        work.average.update()
        progress.averaged = work.average.steps
        self.rows_seen[work.phase.name] += sum(map(len, batches))

    def _read_back(self, guard: Guard) -> None:
        """The losses since the last time; on a GPU only now does the process wait for them."""
        sums = self.progress.sums
        for seen in guard.checked():
            for name, value in seen.losses.items():
                sums[name] = sums.get(name, 0.0) + value * seen.rows
            sums["rows"] = sums.get("rows", 0.0) + seen.rows
            said = {"gradient_norm": seen.norm, "learning_rate": seen.rate}
            self.metrics.write(seen.number, {**seen.losses, **said})

    def _mean_losses(self) -> dict[str, float]:
        """Means over the epoch's rows, of all ranks."""
        sums = dict(self.progress.sums)
        rows = sums.pop("rows")
        return {name: sums[name] / rows for name in sorted(sums)}

    def _judge(self, work: _Work, record: dict[str, Any]) -> None:
        """Validate, and keep the weights if they are the best so far."""
        progress, scores = self.progress, {}
        if work.validation is not None:
            with work.average.in_place():
                scores = work.validation(work.member)
        for name, value in scores.items():
            if name.startswith(LIVE):
                self.report.metric(name, value, progress.step)
        self.metrics.write(progress.step, scores)
        score = scores[work.phase.score] if scores else -math.inf
        if not scores or score > progress.best:
            work.best = work.candidate()
            progress.best, progress.stale = score, 0
            progress.best_epoch = progress.epoch
        else:
            progress.stale += 1
        self.history.append(
            {"member": progress.member, "phase": work.phase.name, **record, **scores}
        )

    def _tell(self, part: float) -> None:
        """Tell the share of all epochs that is done; a phase that ended early counts whole."""
        progress = self.progress
        before = sum(phase.epochs for phase in self.phases[: progress.phase])
        each = sum(phase.epochs for phase in self.phases)
        done = progress.member * each + before + progress.epoch + part
        self._advance(done / (each * len(self.model.members)))

    def _save(self, work: _Work | None) -> None:
        self._saved_at = time.monotonic()
        if self.ranks.first:
            tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
            if work is not None:
                optimiser = optimiser_tensors(work.optimiser, work.member)
                tensors |= {f"best.{k}": v for k, v in work.best.items()}
                tensors |= {f"optimiser.{k}": v for k, v in optimiser.items()}
                tensors |= {f"average.{k}": v for k, v in work.average.average.items()}
            more = {"history": self.history, "metrics": self.metrics.size}
            self.checkpoints.save(self.progress, tensors, more)
        self.ranks.barrier()

    def _resume(self) -> dict[str, Tensor]:
        """Tensors of the checkpoint of this very training, or nothing."""
        try:
            found = self.checkpoints.load(self.progress.identity)
        except ValueError:
            self.report.log("The checkpoint is of another training; starting anew.")
            found = None
        step = None if found is None else found[0].step
        if self.ranks.first_says(step) != step:
            raise InputError(
                "train.checkpoint_folder",
                str(self.checkpoints.folder),
                f"Process {self.ranks.rank} does not find the checkpoint that the first one finds.",
                "Put the training's folder where all machines see it, or remove its checkpoint.",
            )
        if found is None:
            self.metrics.cut(0)
            return {}
        self.progress, tensors, more = found
        self.history = more["history"]
        self.metrics.cut(more["metrics"])
        self.model.load_state_dict(under(tensors, "model."), strict=True)
        at = self.progress
        if at.member < len(self.model.members):
            self.report.log(
                f"Resuming in epoch {at.epoch + 1} of {self.phases[at.phase].name}, "
                f"member {at.member + 1}, after step {at.step}."
            )
        return tensors if at.epoch or at.batch else {}


def _set_training(member: Member, on: bool) -> None:
    """Dropout on or off where something is trained; what is frozen stays in eval mode."""
    member.eval()
    for network in member.children():
        if any(p.requires_grad for p in network.parameters()):
            network.train(on)
    member.drop.train(on and any(p.requires_grad for p in member.image_encoder.parameters()))


def _as_dict(phase: Phase) -> dict[str, Any]:
    """What a phase is, without its functions."""
    said = {f.name: getattr(phase, f.name) for f in fields(phase) if f.name != "begin"}
    return {**said, "losses": asdict(phase.losses)}


@contextmanager
def _memory_errors(phase: Phase) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        short = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not short:
            raise
        raise InputError(
            "train.memory",
            f"phase {phase.name}",
            f"The memory does not hold a batch ({str(error).splitlines()[0]}).",
            "Take smaller batches and accumulate more of them to a step (batch, accumulate): the "
            "result is the same. A vision transformer also needs less with checkpoint_gradients.",
        ) from error
