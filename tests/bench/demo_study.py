"""How long the demo study takes to draw, and how much memory all of its processes hold at once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.registry import Row, benchmark
from tests.instance import ROOT

_EVERY_S = 0.5


@benchmark("demo_study_generate")
def demo_study_generate(folder: Path) -> Iterator[Row]:
    """The study, its truth and its twins; memory is proportional set size, so nothing is twice."""
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "fixtures", "--size", "demo", "--seed", "1", str(folder / "study")],
        cwd=ROOT,
        stdout=sys.stderr,
    )
    peak = 0
    while child.poll() is None:
        peak = max(peak, sum(map(_resident, _tree(child.pid))))
        time.sleep(_EVERY_S)
    if child.returncode:
        raise RuntimeError(f"python -m fixtures ended with {child.returncode}")
    yield Row("demo_study_generate", time.perf_counter() - began, "s")
    yield Row("demo_study_generate_memory", peak / 2**20, "GiB")


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
