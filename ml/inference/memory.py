"""Freed memory is kept for the next tile."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LIMIT = 2**30


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
