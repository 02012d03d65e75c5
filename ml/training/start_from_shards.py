"""What a model knows of its training cells before it is trained, from one or two passes over them.

Means and deviations of each gene, and programmes: the principal components of the standardised
expression, as `ml.training.start` has them for a study in memory. Slides of different panels are
mixed: a gene's mean is over the cells that could show it, and where it was not measured a cell
stands at that mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from ml.errors import InputError
from ml.inference.features import stop_if_asked
from ml.models.checkpoint import write_tensors
from ml.models.losses import log_expression
from ml.report import Report
from ml.training.distributed import Ranks
from ml.training.shards.chosen import CellList, batches, split
from ml.training.shards.to_model import ToModel

Floats = NDArray[np.float32]
CHUNK = 2048
# Up to so many genes the covariance of all cells is decomposed; beyond, programmes come from a
# randomised decomposition (Halko et al., arXiv 0909.4061) of a sample of the cells.
COVARIANCE_GENES = 2000
SAMPLE = 20_000
_ITERATIONS, _OVERSAMPLED = 4, 16


@dataclass(frozen=True)
class Moments:
    """Statistics of the training cells.

    Attributes:
        mean, scale: (genes,) of log1p counts per 10,000.
        loadings: (rank, genes) orthonormal programmes, strongest first.
        cells: cells that mean and scale are over.
        programme_cells: cells that the programmes are from.
        expressed: the most genes that one cell expresses.
    """

    mean: Floats
    scale: Floats
    loadings: Floats
    cells: int
    programme_cells: int
    expressed: int

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        return arrays | {name: torch.tensor(getattr(self, name)) for name in _NUMBERS}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Moments:
        """The inverse of `tensors`."""
        values: dict[str, Any] = {name: tensors[name].numpy() for name in _ARRAYS}
        values |= {name: int(tensors[name]) for name in _NUMBERS}
        return cls(**values)


_ARRAYS, _NUMBERS = ("mean", "scale", "loadings"), ("cells", "programme_cells", "expressed")


def fit_moments(
    cells: CellList,
    to_model: ToModel,
    rank: int,
    seed: int,
    workers: int,
    report: Report,
    ranks: Ranks,
) -> Moments:
    """Moments and programmes of some cells.

    Args:
        rank: programmes; at most as many as genes.
        seed: of the sample, where one is drawn.
        ranks: the processes that share the reading; all get the same.

    Raises:
        InputError: ``train.no_counts``.
    """
    if not len(cells):
        raise InputError(
            "train.no_counts",
            "training slides",
            "No cell has a count of the vocabulary's genes.",
            "Train on slides with measured expression, or with a vocabulary of their panel.",
        )
    reader = _Reader(cells, to_model, workers, report, ranks)
    every = range(len(cells))
    mean, scale, expressed = reader.moments(every)
    rank = min(rank, to_model.genes)
    if to_model.genes <= COVARIANCE_GENES:
        loadings, used = reader.eigenvectors(every, mean, scale, rank), len(cells)
    else:
        sample = cells.sample(SAMPLE, seed)
        report.log(f"Programmes are from {len(sample)} of {len(cells)} training cells.")
        loadings, used = reader.singular_vectors(sample, mean, scale, rank, seed), len(sample)
    top = loadings.abs().argmax(1, keepdim=True)
    signed = loadings * loadings.gather(1, top).sign()
    arrays = [x.float().cpu().numpy() for x in (mean, scale, signed)]
    return Moments(
        mean=arrays[0], scale=arrays[1], loadings=arrays[2],
        cells=len(cells), programme_cells=used, expressed=expressed,
    )  # fmt: skip


def kept_moments(
    folder: Path | None,
    cells: CellList,
    to_model: ToModel,
    rank: int,
    seed: int,
    workers: int,
    report: Report,
    ranks: Ranks,
) -> Moments:
    """The moments of an interrupted training of the same cells; else new ones, which are kept."""
    corpus = cells.corpus
    of = json.dumps([corpus.manifest.vocabulary_sha256, cells.names, rank, seed])
    name = f"moments-{hashlib.sha256(of.encode()).hexdigest()[:16]}.safetensors"
    path = None if folder is None else folder / name
    # All processes read it or none: those on a machine without the file would wait for ever.
    there = torch.tensor(float(path is not None and path.exists()), device=to_model.device)
    if path is not None and float(ranks.total(there)) == ranks.size:
        return Moments.from_tensors(load_file(path))
    moments = fit_moments(cells, to_model, rank, seed, workers, report, ranks)
    if path is not None and ranks.first:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, moments.tensors())
    return moments


class _Reader:
    """Expression of cells, a chunk at a time; each process reads its share."""

    def __init__(
        self, cells: CellList, to_model: ToModel, workers: int, report: Report, ranks: Ranks
    ) -> None:
        self._cells, self._to_model = cells, to_model
        self._workers, self._report, self._ranks = workers, report, ranks

    def moments(self, wanted: range) -> tuple[Tensor, Tensor, int]:
        """Mean and deviation (genes,) float64 over the cells that measure a gene."""
        genes, device = self._to_model.genes, self._to_model.device
        count = torch.zeros(genes, dtype=torch.float64, device=device)
        total, square = torch.zeros_like(count), torch.zeros_like(count)
        most = torch.zeros((), dtype=torch.int64, device=device)
        for values, measured in self._chunks(wanted):
            x = values.double()
            # What was not measured has no counts and adds nothing.
            total += x.sum(0)
            square += (x * x).sum(0)
            count += len(x) if measured is None else measured.sum(0)
            most = torch.maximum(most, (values > 0).sum(1).max())
        total, square, count = (self._ranks.total(x) for x in (total, square, count))
        mean = total / count.clamp_min(1)
        scale = (square / count.clamp_min(1) - mean * mean).clamp_min(0).sqrt()
        # The largest over the ranks: each has a place of its own in the sum.
        places = torch.zeros(self._ranks.size, dtype=torch.int64, device=device)
        places[self._ranks.rank] = most
        return mean, torch.where(scale < 1e-4, 1.0, scale), int(self._ranks.total(places).max())

    def eigenvectors(self, wanted: range, mean: Tensor, scale: Tensor, rank: int) -> Tensor:
        """Strongest eigenvectors (rank, genes) of the cells' covariance."""
        genes = self._to_model.genes
        covariance = torch.zeros(genes, genes, dtype=torch.float64, device=mean.device)
        for values, measured in self._chunks(wanted):
            z = _standardised(values, measured, mean, scale)
            covariance += (z.T @ z).double()
        vectors = torch.linalg.eigh(self._ranks.total(covariance))[1]
        strongest: Tensor = vectors.flip(1)[:, :rank].T
        return strongest

    def singular_vectors(
        self, wanted: NDArray[np.int64], mean: Tensor, scale: Tensor, rank: int, seed: int
    ) -> Tensor:
        """Strongest right singular vectors (rank, genes), from random projections.

        Every process reads the whole sample: it is small, and its rows are needed together.
        """
        chunks = self._chunks(wanted, shared=False)
        z = torch.cat([_standardised(v, m, mean, scale) for v, m in chunks])
        rank = min(rank, len(z))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            q = min(rank + _OVERSAMPLED, *z.shape)
            _, _, vectors = torch.svd_lowrank(z, q=q, niter=_ITERATIONS)
        found: Tensor = vectors[:, :rank].T
        return found

    def _chunks(
        self, wanted: range | NDArray[np.int64], shared: bool = True
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Expression (n, genes) and what was measured of it."""
        chunks = split(wanted, CHUNK)
        if shared:
            chunks = chunks[self._ranks.rank :: self._ranks.size]
        found = batches(self._cells, chunks, 1, crops=False, workers=self._workers)
        for number, batch in enumerate(found):
            stop_if_asked(self._report)
            counts = self._to_model.counts(batch)
            slide = batch.slide.to(counts.device)
            yield log_expression(counts, counts.sum(1)), self._to_model.measured(slide)
            self._report.progress((number + 1) / len(chunks))


def _standardised(values: Tensor, measured: Tensor | None, mean: Tensor, scale: Tensor) -> Tensor:
    z = (values - mean.float()) / scale.float()
    seen: Tensor = z if measured is None else z * measured
    return seen
