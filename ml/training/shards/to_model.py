"""Batches of a corpus as the networks see them, on the device that they run on."""

from __future__ import annotations

import torch
from torch import Tensor

from ml.errors import InputError
from ml.models.batches import CellBatch, CropBatch
from ml.models.config import Architecture
from ml.training.shards.gather import CorpusBatch
from ml.training.shards.reader import Corpus


class ToModel:
    """Turns batches of a corpus into `CropBatch` and `CellBatch`.

    Nothing here waits for the device: copies from page-locked memory run beside what it computes.

    Args:
        architecture: says how many neighbours, and how near.

    Raises:
        InputError: ``corpus.neighbours`` when the model wants more, or more distant ones, than the
            corpus has.
    """

    def __init__(self, corpus: Corpus, architecture: Architecture, device: torch.device) -> None:
        has = corpus.manifest.settings
        for name in ("neighbours", "radius_um"):
            if architecture.neighbours and getattr(architecture, name) > getattr(has, name):
                raise InputError(
                    "corpus.neighbours",
                    f"architecture.{name}",
                    f"The model wants {getattr(architecture, name)}; the corpus was built with "
                    f"{getattr(has, name)}.",
                    "Lower it, or build the corpus with more.",
                )
        self.device, self.genes = device, len(corpus.vocabulary)
        self._neighbours, self._radius = architecture.neighbours, architecture.radius_um
        measured = torch.from_numpy(corpus.manifest.measured(self.genes))
        self._measured = None if bool(measured.all()) else measured.to(device)

    def crops(self, batch: CorpusBatch) -> CropBatch:
        """The crops of a batch that was read with them."""
        assert batch.context is not None and batch.cell is not None
        return CropBatch(self._there(batch.context), self._there(batch.cell))

    def cells(self, batch: CorpusBatch) -> CellBatch:
        """What is measured of a batch; the library size is the counts over the slide's panel."""
        k = self._neighbours
        distance = self._there(batch.neighbour_distance[:, :k])
        slide = self._there(batch.slide)
        counts = self.counts(batch)
        return CellBatch(
            tokens=self._there(batch.tokens),
            neighbour_tokens=self._there(batch.neighbour_tokens[:, :k]),
            distance_um=distance,
            absent=self._there(batch.neighbour_absent[:, :k]) | (distance > self._radius),
            counts=counts,
            totals=counts.sum(1),
            measured=self.measured(slide),
            xy_um=self._there(batch.xy_um),
            slide=slide,
        )

    def counts(self, batch: CorpusBatch) -> Tensor:
        """Raw counts (n, genes) float32."""
        starts, n = self._there(batch.count_starts), len(batch)
        genes = self._there(batch.count_genes)
        rows = torch.repeat_interleave(
            torch.arange(n, device=self.device), starts.diff(), output_size=len(genes)
        )
        dense = torch.zeros(n, self.genes, device=self.device)
        dense[rows, genes.long()] = self._there(batch.count_values).float()
        return dense

    def measured(self, slide: Tensor) -> Tensor | None:
        """(n, genes) bool: the genes that the panels of these slides have; None if all have all."""
        return None if self._measured is None else self._measured[slide]

    def _there(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)
