"""The training loop: seeded to the batch, resumable at every epoch, stopped by validation."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ml.evaluation.metrics import within_groups
from ml.evaluation.retrieval import candidate_sets, image_embeddings, recall_at_10, retrieval
from ml.inference.features import stop_if_asked
from ml.models.checkpoint import write_json, write_tensors
from ml.models.past import PAST, LossWeights, Member
from ml.training.align import (
    ALIGNED,
    AlignSettings,
    aligned_state,
    contrast,
    drawn_rows,
    set_training,
)
from ml.training.corpus import Corpus
from ml.training.optimiser import (
    load_optimiser,
    optimiser_tensors,
    parameter_groups,
    schedule,
)

if TYPE_CHECKING:
    from ml.report import Report


@dataclass(frozen=True)
class Settings:
    """How a model is trained.

    Attributes:
        epochs: passes over the training part, for each member.
        batch: rows per step.
        learning_rate, weight_decay: of AdamW; cosine to zero after one warm-up epoch.
        stop_after: epochs after which each member is finished, though the schedule is laid out for
            `epochs`; None runs them all. 0 keeps the linear start.
        patience: epochs without a better validation Pearson before a member is finished. Training
            first loses a little against the linear start and passes it after some epochs.
        clip: norm that gradients are clipped to.
        seed: everything random follows from it.
        losses: weight of each loss.
        align: the alignment phase that follows.
    """

    epochs: int = 10
    batch: int = 256
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    stop_after: int | None = None
    patience: int = 6
    clip: float = 1.0
    seed: int = 0
    losses: LossWeights = field(default_factory=LossWeights)
    align: AlignSettings = field(default_factory=AlignSettings)


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything printable; the same on every machine."""
    digest = hashlib.sha256(json.dumps([str(p) for p in parts]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass
class _Progress:
    """Where training stands; with the tensors beside it, all that resuming needs.

    `phase` is ``expression`` or ``alignment``; `epoch` and what follows it count within the phase,
    `step` counts on.
    """

    identity: str
    member: int = 0
    phase: str = "expression"
    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    stale: int = 0
    step: int = 0


class Trainer:
    """Trains the members of a model one after the other.

    Args:
        model: built from its config with the standardisation buffers set.
        train, validation: the parts; without validation every member runs all epochs.
        settings: how.
        start: sets a new member's fixed buffers and the weights that training starts from.
        folder: where checkpoints are kept; the same folder resumes. None keeps none.
        identity: describes data and settings; a checkpoint of something else is not resumed.
    """

    def __init__(
        self,
        model: PAST,
        train: Corpus,
        validation: Corpus | None,
        settings: Settings,
        start: Callable[[Member], None],
        folder: Path | None,
        report: Report,
        identity: str,
    ) -> None:
        self.model, self.train, self.validation = model, train, validation
        self.settings, self.folder, self.report = settings, folder, report
        self.start = start
        self.device = model.feature_mean.device
        text = json.dumps([identity, asdict(settings), model.config.as_dict()], sort_keys=True)
        self.progress = _Progress(hashlib.sha256(text.encode()).hexdigest())
        self.history: list[dict[str, float]] = []
        # In this process, of the expression phase; a resumed training starts from 0.
        self.rows_seen = 0
        self.seconds = {"expression": 0.0, "alignment": 0.0}

    def run(self, advance: Callable[[float], None] = lambda share: None) -> None:
        """Train to the end, from the last checkpoint where there is one.

        Args:
            advance: called with the share of all epochs that is done.
        """
        saved = self._resume()
        for number in range(self.progress.member, len(self.model.members)):
            if self.progress.phase == "expression":
                self._timed(self._expression, number, saved, advance)
                saved = {}
            if self.settings.align.epochs:
                self._timed(self._align, number, saved, advance)
                saved = {}
            self._enter("expression", number + 1)
        self.model.eval()

    @property
    def validation_curve(self) -> list[float]:
        """Validation Pearson of the last member at its start and after each epoch."""
        last = [r for r in self.history if r["member"] == self.progress.member - 1]
        return [r["validation_pcc"] for r in last if "validation_pcc" in r]

    def _timed(self, phase: Callable[..., None], *given: Any) -> None:
        began, name = time.perf_counter(), self.progress.phase
        phase(*given)
        self.seconds[name] += time.perf_counter() - began

    def _enter(self, phase: str, member: int) -> None:
        progress = self.progress
        progress.phase, progress.member = phase, member
        progress.epoch = progress.best_epoch = progress.stale = 0
        progress.best = -math.inf
        self._save({}, None)

    def _advance(self, advance: Callable[[float], None]) -> None:
        """Tell the share of all epochs that is done; a phase that ended early counts whole."""
        settings, progress = self.settings, self.progress
        each = settings.epochs + settings.align.epochs
        before = settings.epochs if progress.phase == "alignment" else 0
        done = progress.member * each + before + progress.epoch
        advance(done / (each * len(self.model.members)))

    def _expression(
        self, number: int, saved: dict[str, Tensor], advance: Callable[[float], None]
    ) -> None:
        """Train a member for expression, and leave it at its best on validation."""
        settings, progress = self.settings, self.progress
        member = self.model.networks()[number]
        torch.manual_seed(seed_of(settings.seed, "init", number))
        if not saved:
            member.load_state_dict(Member(self.model.config).to(self.device).state_dict())
            self.start(member)
        optimiser = torch.optim.AdamW(
            parameter_groups(member, settings.weight_decay),
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
        )
        best = {k: v.clone() for k, v in member.state_dict().items()}
        if not saved and self.validation is not None:
            progress.best, progress.best_epoch = self._validate(number), 0
            self.report.metric("validation_pcc", progress.best, progress.step)
            self.history.append({"member": number, "epoch": 0, "validation_pcc": progress.best})
        if saved:
            best = _under(saved, "best.")
            load_optimiser(optimiser, member, _under(saved, "optimiser."))
        last = settings.epochs if settings.stop_after is None else settings.stop_after
        while progress.epoch < last and progress.stale < settings.patience:
            loss = self._epoch(number, member, optimiser)
            self.report.metric("train_loss", loss, progress.step)
            record = {"member": number, "epoch": progress.epoch + 1, "train_loss": loss}
            if self.validation is None:
                best = {k: v.clone() for k, v in member.state_dict().items()}
            else:
                score = self._validate(number)
                self.report.metric("validation_pcc", score, progress.step)
                record["validation_pcc"] = score
                if score > progress.best:
                    best = {k: v.clone() for k, v in member.state_dict().items()}
                    progress.best, progress.best_epoch = score, progress.epoch + 1
                    progress.stale = 0
                else:
                    progress.stale += 1
            self.history.append(record)
            progress.epoch += 1
            self._save(best, optimiser)
            self._advance(advance)
        member.load_state_dict(best)
        if settings.align.epochs:
            self._enter("alignment", number)

    def _align(
        self, number: int, saved: dict[str, Tensor], advance: Callable[[float], None]
    ) -> None:
        """Train a member's shared space, and leave it at its best recall on validation.

        The best is taken among the epochs, never the start: an untrained space is no result.
        """
        settings, progress = self.settings.align, self.progress
        member = self.model.networks()[number]
        set_training(member, False)
        image = image_embeddings(self.model, member, self.train)
        sets = candidate_sets(self.validation, sets=1) if self.validation is not None else []
        held_out = None
        if self.validation is not None and sets:
            held_out = image_embeddings(self.model, member, self.validation)
        if not saved and settings.rows is not None and settings.rows < len(image):
            self.report.log(
                f"Alignment draws {settings.rows} of {len(image)} rows in each epoch "
                "(settings.align.rows)."
            )
        optimiser = torch.optim.AdamW(
            parameter_groups(member, self.settings.weight_decay, ALIGNED),
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
        )
        best = aligned_state(member)
        if saved:
            best = _under(saved, "best.")
            load_optimiser(optimiser, member, _under(saved, "optimiser."))
        while progress.epoch < settings.epochs and progress.stale < settings.patience:
            loss = self._align_epoch(number, member, image, optimiser)
            self.report.metric("alignment_loss", loss, progress.step)
            record = {
                "member": number,
                "alignment_epoch": progress.epoch + 1,
                "alignment_loss": loss,
            }
            score = math.inf
            if self.validation is not None and held_out is not None:
                score = recall_at_10(retrieval(member, self.validation, held_out, sets))
                self.report.metric("validation_recall_at_10", score, progress.step)
                record["validation_recall_at_10"] = score
            if held_out is None or score > progress.best:
                best, progress.stale = aligned_state(member), 0
                progress.best, progress.best_epoch = score, progress.epoch + 1
            else:
                progress.stale += 1
            self.history.append(record)
            progress.epoch += 1
            self._save(best, optimiser)
            self._advance(advance)
        member.load_state_dict(best, strict=False)

    def _align_epoch(
        self, number: int, member: Member, image: Tensor, optimiser: torch.optim.Optimizer
    ) -> float:
        """One pass over the rows drawn for this epoch; returns the mean loss."""
        settings, progress = self.settings.align, self.progress
        seed = seed_of(self.settings.seed, "align", number, progress.epoch)
        torch.manual_seed(seed)
        batches = drawn_rows(len(image), settings, seed)
        total = 0.0
        set_training(member, True)
        for i, places in enumerate(batches):
            stop_if_asked(self.report)
            rate = schedule(progress.epoch + i / len(batches), settings.epochs)
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * rate
            loss = contrast(member, self.train, image, places, self.settings.losses.near_um)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.settings.clip)
            optimiser.step()
            total += float(loss.detach()) * len(places)
            progress.step += 1
        set_training(member, False)
        return total / max(sum(map(len, batches)), 1)

    def _epoch(self, number: int, member: Member, optimiser: torch.optim.Optimizer) -> float:
        """One pass over the training part, every row once; returns the mean loss."""
        settings, progress = self.settings, self.progress
        seed = seed_of(settings.seed, "epoch", number, progress.epoch)
        torch.manual_seed(seed)
        order = np.random.default_rng(seed).permutation(self.train.measured)
        steps = max(math.ceil(len(order) / settings.batch), 1)
        total = 0.0
        member.train()
        for i, rows in enumerate(np.array_split(order, steps)):
            stop_if_asked(self.report)
            rate = schedule(progress.epoch + i / steps, settings.epochs)
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * rate
            outputs = member(
                self.train.images(rows, self.model),
                self.train.cells(rows, self.device),
                replace(settings.losses, contrast=0.0, masked_gene=0.0),
            )
            loss = torch.stack(list(outputs.losses.values())).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(member.parameters(), settings.clip)
            optimiser.step()
            total += float(loss.detach()) * len(rows)
            progress.step += 1
            self.rows_seen += len(rows)
        member.eval()
        return total / max(len(order), 1)

    def _validate(self, number: int) -> float:
        """Median over genes of the member's Pearson within the validation slides."""
        assert self.validation is not None
        member = self.model.networks()[number]
        member.eval()
        with torch.no_grad():
            predicted = [
                member.expression_head(member.embed(self.validation.images(rows, self.model)))
                .cpu()
                .numpy()
                for rows in self.validation.chunks()
            ]
        slide = self.validation.section[self.validation.measured]
        pcc = within_groups(np.concatenate(predicted), self.validation.all_expression(), slide)
        return float(np.median(pcc))

    def _save(self, best: dict[str, Tensor], optimiser: torch.optim.Optimizer | None) -> None:
        """Write the tensors, then the JSON that names them, then drop the ones before."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in best.items()}
        if optimiser is not None:
            member = self.model.networks()[self.progress.member]
            kept = optimiser_tensors(optimiser, member)
            tensors |= {f"optimiser.{k}": v for k, v in kept.items()}
        at = self.progress
        name = f"state-{at.member}-{at.phase}-{at.epoch}.safetensors"
        write_tensors(self.folder / name, tensors)
        state = asdict(self.progress)
        state["best"] = None if math.isinf(self.progress.best) else self.progress.best
        state |= {"tensors": name, "history": self.history}
        write_json(self.folder / "state.json", state)
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink()

    def _resume(self) -> dict[str, Tensor]:
        """Tensors of the checkpoint of this very training, or nothing."""
        path = self.folder / "state.json" if self.folder else None
        if path is None or not path.exists():
            return {}
        state = json.loads(path.read_text())
        if state["identity"] != self.progress.identity:
            self.report.log("The checkpoint is of another training; starting anew.")
            return {}
        tensors = load_file(path.parent / state.pop("tensors"))
        self.history = state.pop("history")
        best = state.pop("best")
        self.progress = _Progress(**state, best=-math.inf if best is None else best)
        self.model.load_state_dict(_under(tensors, "model."))
        self.report.log(
            f"Resuming after {self.progress.phase} epoch {self.progress.epoch} "
            f"of member {self.progress.member + 1}."
        )
        return tensors if self.progress.epoch else {}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
