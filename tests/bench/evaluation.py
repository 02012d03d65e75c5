"""Scores with their bootstrap on half a million cells, and the whole report of the demo study."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.bench.memory import peak_memory
from tests.bench.registry import Row, benchmark

CELLS, GENES, SLIDES, RESAMPLES, SIDE_UM = 500_000, 500, 10, 1000, 7000.0


@benchmark("evaluation_scores")
def evaluation_scores(folder: Path) -> Iterator[Row]:
    """Pearson, Spearman, RVD and SSIM of 500 genes with 1,000 bootstraps, in a process of its own.

    Of one patient, whose ten slides are resampled by about 5,000 spatial blocks each: patients are
    drawn from scores per slide, which costs nothing beside it.
    """
    memory = peak_memory(["-m", "tests.bench.evaluation", str(folder)])
    seconds = json.loads((folder / "seconds.json").read_text())
    yield Row("evaluation_scores", seconds, "s")
    yield Row("evaluation_scores_memory", memory, "GiB")


@benchmark("evaluation_demo")
def evaluation_demo(folder: Path) -> Iterator[Row]:
    """`past evaluate` on the demo study: all baselines and chapters, features computed anew."""
    from fixtures.config import SIZES
    from fixtures.write import write_study
    from ml.cli import main
    from ml.io.study import convert_study
    from ml.report import ConsoleReport
    from ml.training.run import run
    from tests.ml.conftest import sections

    write_study(SIZES["demo"], 1, folder / "study", say=lambda text: None)
    found = {"folder": folder / "converted"}
    found["folder"].mkdir()
    found |= convert_study(folder / "study", found["folder"], ConsoleReport())
    (found["folder"] / "result.json").write_text(json.dumps(found, default=str))
    inputs = {"sections": sections(found), "work": str(folder / "work")}
    run({"preset": "small", "seed": 1}, inputs, folder / "trained", ConsoleReport())
    began = time.perf_counter()
    command = ["evaluate", str(folder / "trained" / "model"), str(found["folder"])]
    assert main(command) == 0
    yield Row("evaluation_demo", time.perf_counter() - began, "s")


def main(folder: Path) -> None:
    """Writes the seconds that the scores took."""
    from ml.evaluation.bootstrap import Resampling, blocks
    from ml.evaluation.metrics import (
        pearson,
        relative_variation_distance,
        spearman,
        structural_similarity,
        within_groups,
    )

    rng = np.random.default_rng(0)
    slide = np.repeat(np.arange(SLIDES), CELLS // SLIDES)
    block = blocks(rng.uniform(0, SIDE_UM, (CELLS, 2)), 100.0)
    measured = np.empty((CELLS, GENES), np.float32)
    predicted = np.empty_like(measured)
    for gene in range(GENES):
        signal = rng.standard_normal(CELLS, np.float32)
        measured[:, gene] = np.log1p(rng.poisson(np.exp(signal - 1)))
        predicted[:, gene] = signal + rng.standard_normal(CELLS, np.float32)
    began = time.perf_counter()
    for measure in (pearson, spearman, relative_variation_distance, structural_similarity):
        within_groups(predicted, measured, slide, measure)
    draws = Resampling(slide, block, ["P1"] * SLIDES, resamples=RESAMPLES)
    draws.pearson(predicted, measured).interval()
    seconds = time.perf_counter() - began
    (folder / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
