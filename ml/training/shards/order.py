"""In which order an epoch goes through the cells: whole numbers only, no data are read.

Shards are shuffled and taken a few at a time; the blocks (runs of rows that are read together) of
those few are shuffled; the cells of some dozens of blocks, the *window*, are shuffled among each
other and cut into batches. Every consumer computes the same order from (seed, epoch) and takes its
own batches from it, so that all cells come exactly once however many ranks and workers there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Lengths = Callable[[Ints, Ints], Ints]
_BLOCKS, _CELLS = 0, 1


@dataclass(frozen=True)
class Plan:
    """How to shuffle and to share out.

    Attributes:
        batch: cells in a batch of one rank; at the end of an epoch batches may be smaller.
        ranks: processes that train together; all get the same number of batches.
        block: rows that are read in one run.
        window: cells that are shuffled among each other, about.
        shards_together: shards that a window mixes.
        by_length: whether cells of a batch have about the same number of tokens.
    """

    batch: int
    ranks: int = 1
    seed: int = 0
    block: int = 256
    window: int = 32_768
    shards_together: int = 32
    by_length: bool = False


class Epoch:
    """The order of one epoch.

    Args:
        shards, rows: number of each shard that takes part, and how many cells it has.

    Raises:
        ValueError: there are fewer cells than ranks.
    """

    def __init__(self, shards: Ints, rows: Ints, plan: Plan, epoch: int) -> None:
        self.plan, self.epoch = plan, epoch
        self.cells = int(rows.sum())
        if self.cells < plan.ranks:
            raise ValueError(f"{self.cells} cells cannot be shared by {plan.ranks} ranks")
        self._round = plan.batch * plan.ranks
        self.batches = -(-self.cells // self._round)
        self._rounds_in_window = max(1, round(plan.window / self._round))
        self._shard, self._start, self._size = _blocks(
            shards, rows, plan, np.random.default_rng([plan.seed, epoch, _BLOCKS])
        )
        self._ends = np.cumsum(self._size)

    @property
    def windows(self) -> int:
        return -(-self.batches // self._rounds_in_window)

    def window_of(self, batch: int) -> int:
        """The window that the batch with this number, of any rank, is in."""
        return batch // self._rounds_in_window

    def first_batch(self, window: int) -> int:
        """The number of the first batch in a window."""
        return window * self._rounds_in_window

    def window(self, number: int, lengths: Lengths) -> list[tuple[Ints, Ints]]:
        """The rounds of a window: (shard, row) of the cells that all ranks take in one step.

        Args:
            lengths: tokens of cells given as (shard, row); asked only if the plan wants it.
        """
        first = self.first_batch(number)
        stop = min(first + self._rounds_in_window, self.batches)
        bounds = np.array([self._bound(r) for r in range(first, stop + 1)])
        shard, row = self._cells(int(bounds[0]), int(bounds[-1]))
        rng = np.random.default_rng([self.plan.seed, self.epoch, _CELLS, number])
        order = rng.permutation(len(row))
        sizes, slots = np.diff(bounds), np.arange(stop - first)
        if self.plan.by_length:
            order = order[np.argsort(lengths(shard[order], row[order]), kind="stable")]
            slots = rng.permutation(stop - first)
        # The round in slots[0] takes the first cells of the order, and so on.
        cut = np.split(order, np.cumsum(sizes[slots])[:-1])
        taken = dict(zip(slots.tolist(), cut, strict=True))
        return [(shard[taken[i]], row[taken[i]]) for i in range(stop - first)]

    def size(self, batch: int) -> int:
        """Cells that all ranks together take with the batch of this number."""
        return self._bound(batch + 1) - self._bound(batch)

    def share(self, shard: Ints, row: Ints, rank: int) -> tuple[Ints, Ints]:
        """A rank's batch of a round."""
        return shard[rank :: self.plan.ranks], row[rank :: self.plan.ranks]

    def _bound(self, round_: int) -> int:
        """The first cell of a round. The last round leaves no rank without a cell."""
        if round_ == self.batches - 1 and round_ > 0 and self._left() < self.plan.ranks:
            return ((round_ - 1) * self._round + self.cells) // 2
        return min(round_ * self._round, self.cells)

    def _left(self) -> int:
        return self.cells - (self.batches - 1) * self._round

    def _cells(self, first: int, stop: int) -> tuple[Ints, Ints]:
        """(shard, row) of the cells [first, stop) of the blocks in their shuffled order."""
        a, b = np.searchsorted(self._ends, [first, stop - 1], side="right")
        blocks = slice(int(a), int(b) + 1)
        size = self._size[blocks]
        shard = np.repeat(self._shard[blocks].astype(np.int64), size)
        begin = np.cumsum(size) - size
        row = np.repeat(self._start[blocks] - begin, size) + np.arange(len(shard))
        skipped = first - int(self._ends[a] - self._size[a])
        return shard[skipped : skipped + stop - first], row[skipped : skipped + stop - first]


def _blocks(
    shards: Ints, rows: Ints, plan: Plan, rng: np.random.Generator
) -> tuple[NDArray[np.int32], Ints, Ints]:
    """Shard, first row and size of each block, shuffled."""
    order = rng.permutation(len(shards))
    shard, start, size = [], [], []
    for at in range(0, len(order), plan.shards_together):
        together = order[at : at + plan.shards_together]
        counts = -(-rows[together] // plan.block)
        of = np.repeat(together, counts)
        number = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
        mixed = rng.permutation(len(of))
        first = number[mixed] * plan.block
        shard.append(shards[of[mixed]].astype(np.int32))
        start.append(first)
        size.append(np.minimum(plan.block, rows[of[mixed]] - first))
    return np.concatenate(shard), np.concatenate(start), np.concatenate(size)
