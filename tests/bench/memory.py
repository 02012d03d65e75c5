"""Memory that a command takes, with all that it starts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.instance import ROOT

_EVERY_S = 0.5


def peak_memory(command: Sequence[str]) -> float:
    """Peak in GiB of `python` with these arguments and of the processes that it starts.

    Proportional set size: what several processes hold counts once, mapped files count.

    Raises:
        RuntimeError: the command failed.
    """
    child = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=sys.stderr)
    peak = 0
    while child.poll() is None:
        peak = max(peak, sum(map(_resident, _tree(child.pid))))
        time.sleep(_EVERY_S)
    if child.returncode:
        raise RuntimeError(f"python {' '.join(command[:2])} ended with {child.returncode}")
    return peak / 2**20


def _tree(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        below = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:  # it has just ended
        return []
    return [pid, *(each for child in below for each in _tree(child))]


def _resident(pid: int) -> int:
    """KiB of a process, its share of what several processes hold."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
