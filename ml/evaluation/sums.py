"""Pearson within slides from sums that add up over batches and over processes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.evaluation.metrics import LEAST_ROWS
from ml.evaluation.retrieval import AT


class WithinSlides:
    """Sums of predicted and measured expression of each gene within each slide.

    Args:
        slides: how many there are; batches number them from 0.
        genes: of the vocabulary.
    """

    def __init__(self, slides: int, genes: int, device: torch.device) -> None:
        # 1, x, y, x², y², xy; in float64, whose rounding does not tell in 10⁹ cells.
        self.sums = torch.zeros(6, slides, genes, dtype=torch.float64, device=device)

    def add(self, predicted: Tensor, measured: Tensor, slide: Tensor, seen: Tensor | None) -> None:
        """Adds cells.

        Args:
            predicted, measured: (n, genes) log1p counts per 10,000.
            slide: (n,) number of each cell's slide.
            seen: (n, genes) the genes that the cell's panel has; None for all.
        """
        x, y = predicted.double(), measured.double()
        one = torch.ones_like(x) if seen is None else seen.double()
        x, y = x * one, y * one
        for total, term in zip(self.sums, (one, x, y, x * x, y * y, x * y), strict=True):
            total.index_add_(0, slide, term)

    def merge(self, merged: Callable[[Tensor], Tensor]) -> None:
        """Replaces the sums by those of all processes; `merged` adds a tensor up over them."""
        self.sums = merged(self.sums)

    def pearson(self) -> NDArray[np.float64]:
        """(genes,) mean over the slides that measured a gene; NaN where none did.

        A gene that is predicted as a constant correlates with nothing: 0. Slides that measured it
        as a constant say nothing of it.
        """
        n, sx, sy, sxx, syy, sxy = self.sums
        count = n.clamp_min(1)
        vx, vy = sxx - sx * sx / count, syy - sy * sy / count
        varies = vy > 1e-9 * syy.clamp_min(1e-12)
        fine = (vx > 1e-9 * sxx.clamp_min(1e-12)) & varies
        root = torch.where(fine, vx * vy, 1.0).sqrt()
        each = torch.where(fine, (sxy - sx * sy / count) / root, 0.0).clamp(-1, 1)
        told = (n >= LEAST_ROWS) & varies
        mean = (each * told).sum(0) / told.sum(0)
        found: NDArray[np.float64] = mean.cpu().numpy()
        return found


class Recall:
    """Hits of retrieval within candidate sets, in both directions, that add up.

    Each set is cells of one slide; every cell looks for its partner among the set's.
    """

    def __init__(self, device: torch.device) -> None:
        # For each k: hits image → gene, hits gene → image, chance; then queries, sets.
        self.sums = torch.zeros(3 * len(AT) + 2, dtype=torch.float64, device=device)
        self.largest = 0

    def add(self, forward: Tensor, backward: Tensor) -> None:
        """Adds a set by the ranks (n,) that `ml.evaluation.retrieval.ranks` gives."""
        n = len(forward)
        found = [(r < k).sum().double() for k in AT for r in (forward, backward)]
        chance = [torch.tensor(float(min(k, n))) for k in AT]
        rest = [torch.tensor(float(n)), torch.tensor(1.0)]
        self.sums += torch.stack([t.double().to(self.sums.device) for t in found + chance + rest])
        self.largest = max(self.largest, n)

    def merge(self, merged: Callable[[Tensor], Tensor]) -> None:
        """Replaces the sums by those of all processes."""
        self.sums = merged(self.sums)

    def metrics(self) -> dict[str, float]:
        """Recall at each of `AT` in both directions beside its chance level; empty without sets."""
        values = self.sums.tolist()
        queries, sets = values[-2:]
        if not queries:
            return {}
        found: dict[str, float] = {}
        for i, k in enumerate(AT):
            found[f"image_to_gene_r{k}"] = values[2 * i] / queries
            found[f"gene_to_image_r{k}"] = values[2 * i + 1] / queries
            found[f"chance_r{k}"] = values[2 * len(AT) + i] / queries
        return found | {"sets": sets}
