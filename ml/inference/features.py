"""What an image encoder gives for every row of a slide, computed into a file that can be resumed.

How rows are seen is a `Forward`: `ml.inference.shared` runs the encoder over tiles,
`ml.inference.exact` over an image around each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.inference.memory import enough_memory, give_back
from ml.inference.pipeline import Leaving, overlapped
from ml.io.journal import Journal

if TYPE_CHECKING:
    from ml.report import Report

Rows = NDArray[np.int64]
Tile = tuple[int, int, int, int]


def device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stop_if_asked(report: Report) -> None:
    """Leave, as SIGTERM would, when the job is being cancelled."""
    if report.should_stop():
        raise SystemExit(143)


@dataclass(frozen=True)
class Block:
    """What one forward pass is over.

    Attributes:
        number: among all blocks of the slide.
        scale: number of the spec's scale.
        rows: numbers of the rows; those of each tile follow each other.
        tiles: the tiles that they lie in, with the number of rows in each; none where every row
            has an image of its own.
    """

    number: int
    scale: int
    rows: Rows
    tiles: tuple[tuple[Tile, int], ...] = ()


@dataclass(frozen=True)
class Pixels:
    """What is read for a block: images (n, 3, H, W) uint8 of each kind, and rows' places in them.

    Attributes:
        images: one tensor, or two for models of two crops.
        points: of each tile, (k, 2) in its pixels.
    """

    images: tuple[Tensor, ...]
    points: tuple[Tensor, ...] = ()

    def to(self, where: torch.device) -> Pixels:
        """The same on a device."""
        return Pixels(
            tuple(t.to(where, non_blocking=True) for t in self.images),
            tuple(t.to(where, non_blocking=True) for t in self.points),
        )


class Forward(Protocol):
    """A way to see the rows of a slide.

    Attributes:
        width: numbers per row.
        dtype: that they are kept as.
    """

    width: int
    dtype: type[np.floating[Any]]
    device: torch.device

    def at_once(self) -> int:
        """Images in one forward pass. Raises InputError ``predict.memory``."""
        ...

    def blocks(self, at_once: int) -> Sequence[Block]:
        """All that there is to compute; the same for the same number of images."""
        ...

    def read(self, block: Block) -> Pixels:
        """Its pixels, on the CPU; called in threads."""
        ...

    def compute(self, block: Block, pixels: Pixels) -> Tensor:
        """(rows of the block, columns) on the device, where the pixels are too."""
        ...

    def columns(self, block: Block) -> slice:
        """The columns that it gives."""
        ...


def compute_rows(
    forward: Forward,
    n_rows: int,
    path: Path,
    identity: dict[str, Any],
    where: str,
    report: Report,
    span: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.floating[Any]]:
    """What the forward gives for all rows, in the file at `path`.

    A journal beside the file says which blocks are complete; those are not computed again.

    Args:
        identity: what the numbers depend on.
        where: the slide, for messages.
        report: told of progress within `span`, and asked whether to stop.

    Returns:
        (n_rows, forward.width), memory-mapped read-only.

    Raises:
        InputError: ``predict.memory``, and those of the slide.
    """
    shape = (n_rows, forward.width)
    if n_rows == 0:
        return np.zeros(shape, forward.dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = n_rows * forward.width * np.dtype(forward.dtype).itemsize
    log = path.with_name(path.name + ".journal")
    if not path.is_file() or path.stat().st_size != size:
        log.unlink(missing_ok=True)
    with torch.inference_mode():
        journal = Journal(
            log,
            {"shape": list(shape), "dtype": np.dtype(forward.dtype).name, **identity},
            lambda: {"at_once": forward.at_once()},
        )
        blocks = forward.blocks(int(journal.chosen["at_once"]))
        store = np.memmap(path, forward.dtype, "r+" if journal.resumed else "w+", shape=shape)
        store.flush()

        def compute(block: Block, pixels: Pixels) -> Leaving:
            with torch.inference_mode(), enough_memory(where):
                return Leaving(forward.compute(block, pixels.to(forward.device)))

        def write(block: Block, values: Leaving) -> None:
            store[block.rows, forward.columns(block)] = values.numpy()
            store.flush()
            journal.add(block.number)
            give_back(store)

        left = [block for block in blocks if block.number not in journal.done]
        total = sum(len(block.rows) for block in blocks)
        finished = total - sum(len(block.rows) for block in left)
        try:
            for block in overlapped(left, forward.read, compute, write):
                finished += len(block.rows)
                report.progress(span[0] + (span[1] - span[0]) * finished / total)
                stop_if_asked(report)
        finally:
            journal.close()
    report.progress(span[1])
    return np.memmap(path, forward.dtype, "r", shape=shape)


def compute_in_memory(forward: Forward, n_rows: int) -> NDArray[np.floating[Any]]:
    """The same for few rows, as (n_rows, forward.width); rows that no block has stay 0.

    Raises:
        InputError: ``predict.memory``, and those of the slide.
    """
    found = np.zeros((n_rows, forward.width), forward.dtype)
    with torch.inference_mode():

        def compute(block: Block, pixels: Pixels) -> Leaving:
            with torch.inference_mode(), enough_memory("a sample of rows"):
                return Leaving(forward.compute(block, pixels.to(forward.device)))

        def write(block: Block, values: Leaving) -> None:
            found[block.rows, forward.columns(block)] = values.numpy()

        for _ in overlapped(forward.blocks(forward.at_once()), forward.read, compute, write):
            pass
    return found
