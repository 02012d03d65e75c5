"""Goes through a corpus in batches: shuffled, shared out among ranks and workers, resumable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ml.errors import InputError
from ml.training.shards.gather import CorpusBatch, Gatherer
from ml.training.shards.layout import text_hash
from ml.training.shards.order import Epoch, Plan
from ml.training.shards.reader import Corpus


@dataclass(frozen=True)
class LoaderConfig:
    """What to load and how.

    Attributes:
        plan: batch size, ranks, seed and shuffling.
        rank: of this process.
        context: tokens kept per cell.
        crops: whether to read crops.
        workers: processes that read ahead; 0 reads in this process.
        slides: numbers of the slides that take part; all where None.
        pin_memory: whether batches arrive in page-locked memory.
    """

    plan: Plan
    rank: int = 0
    context: int = 297
    crops: bool = False
    workers: int = 0
    slides: tuple[int, ...] | None = None
    pin_memory: bool = False


class CorpusLoader:
    """Iterates over the rest of the epoch; iterating again goes through the next one.

    The batches of an epoch depend on the corpus, the plan and the epoch's number only: not on the
    number of workers, nor on where the loader was interrupted.

    Raises:
        InputError: ``corpus.no_crops``, or ``corpus.too_small`` for this many ranks.
    """

    def __init__(self, corpus: Corpus, config: LoaderConfig) -> None:
        if config.crops and corpus.manifest.settings.crops == "none":
            raise InputError(
                "corpus.no_crops",
                corpus.place,
                "The corpus was built without crops.",
                "Build one with --crops jpeg, or train without images.",
            )
        self.corpus, self.config = corpus, config
        self.epoch, self.position = 0, 0
        shards, _ = self._taking_part()
        rows = sum(corpus.manifest.shards[i].rows for i in shards)
        if rows < config.plan.ranks:
            raise InputError(
                "corpus.too_small",
                corpus.place,
                f"{rows} cells take part, for {config.plan.ranks} processes.",
                "Choose more slides, or fewer processes.",
            )

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return self.order().batches

    def __iter__(self) -> Iterator[CorpusBatch]:
        source = _Batches(self.corpus, self.config, self.order(), self.position)
        workers = self.config.workers
        loader: DataLoader[CorpusBatch] = DataLoader(
            source,
            batch_size=None,
            num_workers=workers,
            pin_memory=self.config.pin_memory,
            prefetch_factor=2 if workers else None,
        )
        for batch in loader:
            # Counted before it is handed out: a state saved while it is used means "after it".
            self.position += 1
            yield batch
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, counted in batches that were handed out; plain JSON."""
        return {"epoch": self.epoch, "position": self.position, "of": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to where another loader was; the next iteration continues there.

        Raises:
            InputError: ``corpus.other_position`` if that loader had another order.
        """
        if state["of"] != self._identity():
            raise InputError(
                "corpus.other_position",
                self.corpus.place,
                "The position was saved with other cells, batch size, processes or seed.",
                "Continue with the settings and the corpus of the interrupted run.",
            )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def order(self) -> Epoch:
        """The order of the epoch that the loader is in."""
        shards, rows = self._taking_part()
        return Epoch(shards, rows, self.config.plan, self.epoch)

    def _taking_part(self) -> tuple[Any, Any]:
        """Numbers of the shards of the chosen slides, and their cells."""
        chosen = None if self.config.slides is None else set(self.config.slides)
        records = self.corpus.manifest.shards
        shards = [i for i, r in enumerate(records) if chosen is None or r.slide in chosen]
        return np.array(shards, np.int64), np.array([records[i].rows for i in shards], np.int64)

    def _identity(self) -> str:
        shards, _ = self._taking_part()
        names = [self.corpus.manifest.shards[i].name for i in shards]
        return text_hash(repr([names, sorted(asdict(self.config.plan).items())]))


class _Batches(IterableDataset[CorpusBatch]):
    """The batches of one rank from a position on; each worker makes its share of them."""

    def __init__(self, corpus: Corpus, config: LoaderConfig, order: Epoch, position: int) -> None:
        self._corpus, self._config = corpus, config
        self._order, self._position = order, position

    def __iter__(self) -> Iterator[CorpusBatch]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if info is not None:
            torch.set_num_threads(1)
        gatherer = Gatherer(self._corpus, self._config.context, self._config.crops)
        first = self._order.window_of(self._position)
        for number in range(first, self._order.windows):
            rounds = self._order.window(number, gatherer.lengths)
            at = self._order.first_batch(number)
            for batch, cells in enumerate(rounds, at):
                ahead = batch - self._position
                if ahead >= 0 and ahead % workers == worker:
                    yield gatherer.batch(*self._order.share(*cells, self._config.rank))
