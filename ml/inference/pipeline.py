"""Reading, computing and writing at the same time, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
# Items that are read ahead of the one that is computed, each by a thread, and written behind it.
AHEAD, BEHIND = min(8, max(2, os.cpu_count() or 1)), 2


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read], Computed],
    write: Callable[[Item, Computed], None],
) -> Iterator[Item]:
    """Items in turn, each as soon as it is written.

    Args:
        items: what is worked on.
        read: called in threads, `AHEAD` items before they are needed.
        compute: called in this thread, in order.
        write: called in one other thread, in order.
    """
    reading: deque[tuple[Item, Future[Read]]] = deque()
    writing: deque[tuple[Item, Future[None]]] = deque()
    rest = iter(items)
    readers, writer = ThreadPoolExecutor(AHEAD), ThreadPoolExecutor(1)

    def fill() -> None:
        while len(reading) < AHEAD:
            try:
                item = next(rest)
            except StopIteration:
                return
            reading.append((item, readers.submit(read, item)))

    try:
        fill()
        while reading:
            item, pixels = reading.popleft()
            got = pixels.result()
            fill()
            writing.append((item, writer.submit(write, item, compute(item, got))))
            while len(writing) > BEHIND or (writing and writing[0][1].done()):
                written, result = writing.popleft()
                result.result()
                yield written
        for written, result in writing:
            result.result()
            yield written
    finally:
        readers.shutdown(cancel_futures=True)
        writer.shutdown(cancel_futures=True)


class Leaving:
    """Values on their way from the device; only who asks for them waits."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = values
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def numpy(self) -> NDArray[Any]:
        """The values, once they are here."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


def entering(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """A tensor that can go to the device while it computes; called by a reading thread."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if device.type == "cuda" else tensor
