"""How much is computed at a time, and freed memory that is kept for the next tile."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from ml.errors import InputError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LIMIT = 2**30
# What the images of one forward pass may take on a CPU, with all that the encoder makes of them.
CPU_BYTES = 1 << 30
# An encoder's intermediate results, in units of its input as float32.
_INTERMEDIATE = 24
# Of the free memory of a GPU, what a forward pass is planned to take; the most images in one.
_SHARE, _MOST = 0.7, 512


def keep_freed_memory() -> None:
    """Have glibc reuse large blocks instead of returning each to the system.

    The maps of a tile are up to 100 MB each; mapped and zeroed anew for every layer of every tile
    they take a quarter of the time of a forward pass. It holds for the process, and the process
    ends with its job. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LIMIT)
        mallopt(_TRIM_THRESHOLD, _LIMIT)


def return_freed_memory() -> None:
    """Gives the system what `keep_freed_memory` had kept; what comes next needs less."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def images_at_once(
    side: int, device: torch.device, forward: Callable[[int], object], where: str
) -> int:
    """Square images that one forward pass takes in the memory that is free.

    On a GPU a pass over two images tells what one takes; on a CPU the bound is `CPU_BYTES`.

    Args:
        side: of an image in pixels.
        forward: computes that many images.
        where: what is computed, for the message.

    Raises:
        InputError: ``predict.memory``, when not even one fits.
    """
    if device.type == "cuda":
        with enough_memory(where):
            forward(1)  # what is set up once is no part of what an image takes
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            forward(2)
            torch.cuda.synchronize(device)
        needed = max((torch.cuda.max_memory_allocated(device) - before) / 2, 1.0)
        # What torch holds and does not use is as good as free.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = _SHARE * (torch.cuda.mem_get_info(device)[0] + kept)
    else:
        needed, free = 3 * 4 * side * side * _INTERMEDIATE, CPU_BYTES
    if needed > free:
        raise InputError(
            "predict.memory",
            where,
            f"One image of {side} × {side} px takes about {needed / 2**30:.2g} GiB of memory; "
            f"{free / 2**30:.2g} GiB may be used.",
            "Free memory on the device, or predict on a machine with more.",
        )
    return int(min(free // needed, _MOST))


@contextmanager
def enough_memory(where: str) -> Iterator[None]:
    """Says plainly when memory runs out.

    Raises:
        InputError: ``predict.memory``.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_memory(error):
            raise
        raise InputError(
            "predict.memory",
            where,
            f"Memory ran out ({(str(error).splitlines() or ['no memory'])[0][:160]}).",
            "Stop what else uses it, or predict on a machine with more.",
        ) from error


def _is_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def give_back(array: NDArray[np.generic]) -> None:
    """Takes the pages of a mapped file out of this process; they stay in the system's cache."""
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
