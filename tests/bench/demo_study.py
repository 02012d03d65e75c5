"""How long the demo study takes to draw, and how much memory all of its processes hold at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.memory import peak_memory
from tests.bench.registry import Row, benchmark


@benchmark("demo_study_generate")
def demo_study_generate(folder: Path) -> Iterator[Row]:
    """The study, its truth and its twins."""
    began = time.perf_counter()
    peak = peak_memory(["-m", "fixtures", "--size", "demo", "--seed", "1", str(folder / "study")])
    yield Row("demo_study_generate", time.perf_counter() - began, "s")
    yield Row("demo_study_generate_memory", peak, "GiB")
