"""Given cells of a corpus in a given order: for statistics, validation and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ml.training.shards.gather import CorpusBatch, Gatherer
from ml.training.shards.reader import Corpus

Ints = NDArray[np.int64]


class CellList:
    """The cells of some slides, numbered from 0 in the order of the corpus.

    Args:
        slides: their numbers in the manifest.
    """

    def __init__(self, corpus: Corpus, slides: Sequence[int]) -> None:
        chosen, records = set(slides), corpus.manifest.shards
        self.corpus = corpus
        self._shards = np.array([i for i, r in enumerate(records) if r.slide in chosen], np.int64)
        self._slides = np.array([records[i].slide for i in self._shards], np.int64)
        self._ends = np.cumsum([records[i].rows for i in self._shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def names(self) -> list[str]:
        """Names of the shards that they are in; shards never change."""
        return [self.corpus.manifest.shards[i].name for i in self._shards]

    def places(self, cells: Ints) -> tuple[Ints, Ints]:
        """Shards and rows of some cells."""
        at = np.searchsorted(self._ends, cells, side="right")
        first = np.append(0, self._ends)[at]
        return self._shards[at], cells - first

    def by_slide(self) -> Iterator[tuple[int, int, int]]:
        """(slide, first cell, one past its last) of each shard."""
        first = 0
        for slide, stop in zip(self._slides.tolist(), self._ends.tolist(), strict=True):
            yield slide, first, stop
            first = stop

    def sample(self, most: int, seed: int) -> Ints:
        """At most `most` cells, drawn evenly, in order."""
        if len(self) <= most:
            return np.arange(len(self))
        rng = np.random.default_rng([seed, len(self)])
        return np.sort(rng.choice(len(self), most, replace=False, shuffle=False))


class _Chosen(Dataset[CorpusBatch]):
    def __init__(
        self, cells: CellList, wanted: Sequence[range | Ints], context: int, crops: bool
    ) -> None:
        self._cells, self._wanted = cells, wanted
        self._gatherer = Gatherer(cells.corpus, context, crops)

    def __len__(self) -> int:
        return len(self._wanted)

    def __getitem__(self, index: int) -> CorpusBatch:
        return self._gatherer.batch(*self._cells.places(np.asarray(self._wanted[index], np.int64)))


def batches(
    cells: CellList,
    wanted: Sequence[range | Ints],
    context: int,
    *,
    crops: bool,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[CorpusBatch]:
    """A batch of each of the given sets of cells, in order.

    Args:
        wanted: numbers of cells in `cells`.
        context: tokens kept per cell.
        crops: whether to read crops.
        workers: processes that read ahead.
    """
    loader: DataLoader[CorpusBatch] = DataLoader(
        _Chosen(cells, wanted, context, crops),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
    )
    yield from loader


def split(cells: Ints | range, size: int) -> list[range | Ints]:
    """Some cells in sets of `size`, the last one smaller."""
    return [cells[at : at + size] for at in range(0, len(cells), size)]
