"""Training on features in memory: expression first, then the shared space.

The features are those of a frozen encoder, and a linear start is near the best that they allow; the
contrast takes most of a step's time and does expression no good there. So the image side and the
expression head are trained first, and frozen at what validation chose; cell encoder, projections
and temperature follow, on image embeddings that are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ml.evaluation.metrics import within_groups
from ml.evaluation.retrieval import candidate_sets, image_embeddings, recall_at_10, retrieval
from ml.models.batches import EmbeddedBatch
from ml.models.past import PAST, Member
from ml.report import Report
from ml.training.corpus import Corpus, Rows
from ml.training.engine import Batch, Phase, Source, Validation, seed_of
from ml.training.settings import AlignSettings, Settings

EXPRESSION, ALIGNMENT, JOINT = "expression", "alignment", "joint"
# Parts of a member that are aligned; nothing that expression is predicted with is among them.
ALIGNED = (
    "cell_encoder.",
    "cell_neighbourhood.",
    "masked_gene_head.",
    "image_projection.",
    "cell_projection.",
    "log_temperature",
)


def phases(
    model: PAST, train: Corpus, validation: Corpus | None, settings: Settings, report: Report
) -> list[Phase]:
    """Both phases of a model on features; one where `settings` leave the other out."""
    align, losses = settings.align, settings.losses
    predicts = bool(losses.expression or losses.counts)
    if settings.joint or not predicts:
        return [_joint(model, train, validation, settings, predicts)]

    def begin(member: Member, number: int) -> tuple[Source, Validation | None]:
        score = None if validation is None else expression_score(model, validation)
        return InMemory(model, train, settings, number), score

    def begin_aligning(member: Member, number: int) -> tuple[Source, Validation | None]:
        if align.rows is not None and align.rows < len(train.measured):
            report.log(
                f"Alignment draws {align.rows} of {len(train.measured)} rows in each epoch "
                "(settings.align.rows)."
            )
        source = Embedded(model, member, train, align, settings.seed, number)
        score = None if validation is None else recall_score(model, member, validation)
        return source, score

    expression = Phase(
        name=EXPRESSION,
        losses=replace(losses, contrast=0.0, masked_gene=0.0),
        epochs=settings.epochs,
        stop_after=settings.stop_after,
        learning_rate=settings.learning_rate,
        patience=settings.patience,
        score="validation_pcc",
        begin=begin,
    )
    alignment = Phase(
        name=ALIGNMENT,
        losses=replace(losses, expression=0.0, counts=0.0),
        epochs=align.epochs,
        learning_rate=align.learning_rate,
        patience=align.patience,
        score="validation_recall_at_10",
        loss="alignment_loss",
        begin=begin_aligning,
        trained=ALIGNED,
        start_counts=False,  # an untrained space is no result
    )
    both = [expression, alignment]
    return [phase for phase in both if phase.epochs and Member.used(phase.losses)]


def _joint(
    model: PAST, train: Corpus, validation: Corpus | None, settings: Settings, predicts: bool
) -> Phase:
    def begin(member: Member, number: int) -> tuple[Source, Validation | None]:
        source = InMemory(model, train, settings, number, neighbours=True)
        if validation is None:
            return source, None
        return source, expression_score(model, validation) if predicts else retrieved

    def retrieved(member: Member) -> dict[str, float]:
        assert validation is not None
        found = recall_score(model, member, validation)
        return {} if found is None else found(member)

    return Phase(
        name=JOINT,
        losses=settings.losses,
        epochs=settings.epochs,
        stop_after=settings.stop_after,
        learning_rate=settings.learning_rate,
        patience=settings.patience,
        score="validation_pcc" if predicts else "validation_recall_at_10",
        begin=begin,
        start_counts=predicts,
    )


class InMemory:
    """Every measured row once an epoch, in an order drawn anew for each.

    Args:
        neighbours: whether the cell side's neighbours are needed.
    """

    def __init__(
        self,
        model: PAST,
        train: Corpus,
        settings: Settings,
        number: int,
        neighbours: bool = False,
    ) -> None:
        self._model, self._train, self._settings = model, train, settings
        self._number, self._neighbours = number, neighbours

    def steps(self, epoch: int) -> int:
        return max(math.ceil(len(self._train.measured) / self._settings.batch), 1)

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        seed = seed_of(self._settings.seed, "epoch", self._number, epoch)
        order = np.random.default_rng(seed).permutation(self._train.measured)
        device = self._model.feature_mean.device
        for rows in np.array_split(order, self.steps(epoch))[first:]:
            yield Batch(
                self._train.images(rows, self._model),
                self._train.cells(rows, device, self._neighbours),
                len(rows),
                lambda rows=rows: self._train.where(rows),  # type: ignore[misc]
            )


class Embedded:
    """Rows with image embeddings that are computed once; some are drawn for each epoch.

    A batch is of one slide: there the negatives differ in their cells, not in stain or patient, and
    many rows are neighbours of each other, whose cells are encoded once.
    """

    def __init__(
        self,
        model: PAST,
        member: Member,
        train: Corpus,
        settings: AlignSettings,
        seed: int,
        number: int,
    ) -> None:
        member.eval()
        self._train, self._settings = train, settings
        self._seed = (seed, "align", number)
        self._embeddings = image_embeddings(model, member, train)

    def steps(self, epoch: int) -> int:
        return len(self._drawn(epoch))

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        device = self._embeddings.device
        for places in self._drawn(epoch)[first:]:
            rows = self._train.measured[places]
            yield Batch(
                EmbeddedBatch(self._embeddings[torch.from_numpy(places).to(device)]),
                self._train.cells(rows, device),
                len(rows),
                lambda rows=rows: self._train.where(rows),  # type: ignore[misc]
            )

    def _drawn(self, epoch: int) -> list[Rows]:
        """Batches of an epoch, as places among the measured rows; each at most once."""
        rng = np.random.default_rng(seed_of(*self._seed, epoch))
        slide = self._train.section[self._train.measured]
        batches: list[Rows] = []
        for number in np.unique(slide):
            places = rng.permutation(np.flatnonzero(slide == number))
            batches += np.array_split(places, math.ceil(len(places) / self._settings.batch))
        order = rng.permutation(len(batches))
        ends = np.cumsum([len(batches[i]) for i in order])
        most = self._settings.rows or len(slide)
        # As many whole batches as the rows allow, at least one.
        kept = max(int(np.searchsorted(ends, most, side="right")), 1)
        return [batches[i] for i in order[:kept]]


def expression_score(model: PAST, validation: Corpus) -> Validation:
    """Median over genes of the Pearson correlation within the validation slides."""
    slide = validation.section[validation.measured]
    measured = validation.all_expression()

    @torch.no_grad()
    def score(member: Member) -> dict[str, float]:
        member.eval()
        predicted = [
            member.expression_head(member.embed(validation.images(rows, model))).cpu().numpy()
            for rows in validation.chunks()
        ]
        pcc = within_groups(np.concatenate(predicted), measured, slide)
        return {"validation_pcc": float(np.nanmedian(pcc)) if np.isfinite(pcc).any() else 0.0}

    return score


def recall_score(model: PAST, member: Member, validation: Corpus) -> Validation | None:
    """Recall of both directions on validation slides; None where they have too few rows."""
    sets: list[Rows] = candidate_sets(validation, sets=1)
    if not sets:
        return None
    member.eval()
    embeddings: Tensor = image_embeddings(model, member, validation)

    def score(member: Member) -> dict[str, float]:
        member.eval()
        found = retrieval(member, validation, embeddings, sets)
        return {"validation_recall_at_10": recall_at_10(found), **found}

    return score
