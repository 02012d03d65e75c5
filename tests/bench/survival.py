"""Kaplan–Meier curves, log-rank test and at-risk table of a large cohort; the Cox model apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tests.bench.registry import Row, benchmark

PATIENTS, STRATA = 10_000, 4


@benchmark("km_10k")
def km_10k(folder: Path) -> Iterator[Row]:
    """Medians in ms; `km_10k_cox` adds hazard ratios and their check, `_late` entry times too."""
    from ml.tasks.survival import kaplan_meier

    rng = np.random.default_rng(0)
    group = rng.integers(0, STRATA, PATIENTS)
    months, event = rng.exponential(40, PATIENTS), rng.random(PATIENTS) < 0.6
    entry = np.where(rng.random(PATIENTS) < 0.5, months * rng.random(PATIENTS) * 0.5, 0.0)
    labels = [f"stratum {index}" for index in range(STRATA)]
    whole = partial(kaplan_meier, months, event, groups=group, labels=labels)
    whole(ratios=True)  # imports
    yield Row("km_10k", _median_ms(partial(whole, ratios=False), 9), "ms")
    yield Row("km_10k_cox", _median_ms(whole, 5), "ms")
    yield Row("km_10k_cox_late", _median_ms(partial(whole, entry=entry), 3), "ms")


def _median_ms(run: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken) * 1000)
