"""Scores on held-out slides of a corpus, computed by all processes together.

Each batch is a seeded draw of cells of one slide: its expression adds to the correlations within
slides, and its cells are one another's candidates in retrieval.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.evaluation.metrics import summary
from ml.evaluation.retrieval import CANDIDATES
from ml.evaluation.retrieval import ranks as ranks_of
from ml.evaluation.sums import Recall, WithinSlides
from ml.inference.features import stop_if_asked
from ml.models.batches import CellBatch, CropBatch
from ml.models.losses import log_expression
from ml.models.past import PAST, Member
from ml.report import Report
from ml.training.distributed import Ranks
from ml.training.shards.chosen import CellList, batches
from ml.training.shards.reader import Corpus
from ml.training.shards.to_model import ToModel

# Predicted expression (n, genes), and both sides in the shared space where that is trained.
Seen = tuple[Tensor, Tensor | None, Tensor | None]
Look = Callable[[CropBatch, CellBatch], Seen]


@dataclass(frozen=True)
class Scores:
    """What a look at held-out cells found.

    Attributes:
        pcc: (genes,) Pearson within slides; NaN for genes that no slide measured.
        retrieval: recall and chance, as `Recall.metrics`; empty without a shared space.
        cells: how many were looked at.
    """

    pcc: NDArray[np.float64]
    retrieval: dict[str, float]
    cells: int

    @property
    def told(self) -> NDArray[np.float64]:
        """The correlations that there are."""
        return self.pcc[~np.isnan(self.pcc)]

    def metrics(self) -> dict[str, Any]:
        """pcc_median, pcc_q1, pcc_q3, n_rows, n_genes, retrieval."""
        return {
            **summary(self.told),
            "n_rows": self.cells,
            "n_genes": len(self.told),
            "retrieval": self.retrieval,
        }


class HeldOut:
    """Cells of held-out slides.

    Args:
        slides: their numbers in the corpus.
        most: cells to look at, about, the same number from each slide; None for all.
        context: tokens kept per cell.
        workers: processes that read ahead.
        contrast: whether the shared space is trained, and retrieval worth a look.
    """

    def __init__(
        self,
        corpus: Corpus,
        slides: Sequence[int],
        to_model: ToModel,
        *,
        most: int | None,
        context: int,
        workers: int,
        contrast: bool,
        ranks: Ranks,
        seed: int = 0,
    ) -> None:
        self._cells, self._to_model = CellList(corpus, slides), to_model
        self._context, self._workers = context, workers
        self._contrast, self._ranks = contrast, ranks
        self._place = {slide: place for place, slide in enumerate(slides)}
        every = self._drawn(most, seed)
        self.cells = sum(map(len, every))
        self._own = every[ranks.rank :: ranks.size]

    def _drawn(self, most: int | None, seed: int) -> list[NDArray[np.int64]]:
        """Sets of cells of one slide each."""
        of_slide: dict[int, list[range]] = defaultdict(list)
        for slide, first, stop in self._cells.by_slide():
            of_slide[slide].append(range(first, stop))
        each = None if most is None else max(CANDIDATES, most // max(len(of_slide), 1))
        self._size = {slide: sum(map(len, runs)) for slide, runs in of_slide.items()}
        drawn: list[NDArray[np.int64]] = []
        for slide, runs in of_slide.items():
            cells = np.concatenate([np.arange(r.start, r.stop) for r in runs])
            order = np.random.default_rng([seed, slide]).permutation(len(cells))[:each]
            sets = np.split(cells[order], range(CANDIDATES, len(order), CANDIDATES))
            # In order within a set: what lies together is read together.
            drawn += [np.sort(some) for some in sets if len(some)]
        return drawn

    def __call__(self, member: Member) -> dict[str, float]:
        """Scores of a member while it is trained; larger is better."""
        was = member.training
        member.eval()
        found = self.look(_of_member(member, self._contrast))
        member.train(was)
        scores = {"validation_pcc": float(np.median(found.told)) if len(found.told) else 0.0}
        if found.retrieval:
            both = [found.retrieval[f"{way}_r10"] for way in ("image_to_gene", "gene_to_image")]
            scores |= {"validation_recall_at_10": sum(both) / 2, **found.retrieval}
        return scores

    def evaluate(self, model: PAST, report: Report) -> Scores:
        """Scores of the whole model."""
        return self.look(_of_model(model, self._contrast), report)

    @torch.no_grad()
    def look(self, look: Look, report: Report | None = None) -> Scores:
        """Scores of whatever predicts; all processes must call it and get the same."""
        device, cuda = self._to_model.device, self._to_model.device.type == "cuda"
        sums = WithinSlides(len(self._place), self._to_model.genes, device)
        recall = Recall(device)
        found = batches(
            self._cells, self._own, self._context, crops=True,
            workers=min(self._workers, os.cpu_count() or 1, len(self._own)), pin_memory=cuda,
        )  # fmt: skip
        for number, batch in enumerate(found):
            cells = self._to_model.cells(batch)
            with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
                predicted, image, cell = look(self._to_model.crops(batch), cells)
            place = torch.full_like(cells.slide, self._place[int(batch.slide[0])])
            measured = log_expression(cells.counts, cells.totals)
            sums.add(predicted.float(), measured, place, cells.measured)
            # A handful of cells that are left of a slide are no set to choose among.
            if image is not None and cell is not None and self._is_set(batch.slide, len(image)):
                recall.add(*ranks_of(image.float(), cell.float()))
            if report is not None:
                stop_if_asked(report)
                report.progress((number + 1) / len(self._own))
        sums.merge(self._ranks.total)
        recall.merge(self._ranks.total)
        return Scores(sums.pearson(), recall.metrics(), self.cells)

    def _is_set(self, slide: Tensor, cells: int) -> bool:
        return cells == min(CANDIDATES, self._size[int(slide[0])]) and cells > 1


def _of_member(member: Member, contrast: bool) -> Look:
    def look(images: CropBatch, cells: CellBatch) -> Seen:
        image = member.embed(images)
        predicted = member.expression_head(image).clamp_min(0.0)
        if not contrast:
            return predicted, None, None
        cell = member.cell_projection(member.embed_cell(cells))
        return predicted, member.image_projection(image), cell

    return look


def _of_model(model: PAST, contrast: bool) -> Look:
    def look(images: CropBatch, cells: CellBatch) -> Seen:
        predicted = model.predict(images)
        if not contrast:
            return predicted, None, None
        return predicted, model.encode_image(images), model.encode_cell(cells)

    return look


def write_per_gene(path: Path, symbols: Sequence[str], scores: dict[str, Scores]) -> None:
    """``per_gene.csv``: part, gene, pcc; best first within a part."""
    lines = ["part,gene,pcc"]
    for part, found in scores.items():
        for gene in np.argsort(-found.pcc, kind="stable").tolist():
            if not np.isnan(found.pcc[gene]):
                lines.append(f"{part},{symbols[gene]},{found.pcc[gene]:.5f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part_file = path.with_name(path.name + ".part")
    part_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part_file.replace(path)
