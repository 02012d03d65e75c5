"""Benchmarks by name. Each yields rows; targets.csv says what is aimed at."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

TARGETS = Path(__file__).with_name("targets.csv")


@dataclass(frozen=True)
class Row:
    """One measured figure. `baseline` is in the same unit, `ratio` is value / baseline."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Target:
    name: str
    unit: str
    better: str
    target: float | None

    def met_by(self, value: float) -> bool | None:
        """None where there is no target: the figure is for the record."""
        if self.target is None:
            return None
        return value <= self.target if self.better == "lower" else value >= self.target


Benchmark = Callable[[Path], Iterator[Row]]
BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(name: str) -> Callable[[Benchmark], Benchmark]:
    """Registers a benchmark, which is given an empty folder of its own."""

    def register(function: Benchmark) -> Benchmark:
        BENCHMARKS[name] = function
        return function

    return register


def targets() -> dict[str, Target]:
    with TARGETS.open(newline="") as file:
        return {
            row["name"]: Target(
                row["name"],
                row["unit"],
                row["better"],
                float(row["target"]) if row["target"] else None,
            )
            for row in csv.DictReader(file)
        }
