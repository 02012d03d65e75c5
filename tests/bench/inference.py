"""Whole-slide inference: the shared forward against a crop per cell, and memory at a million."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.bench.memory import peak_memory
from tests.bench.registry import Row, benchmark
from tests.bench.studies import PYRAMID
from tests.instance import ROOT

# Rows of held-out slides that both ways see; a crop per cell of all of them would take an hour.
ROWS = 600
CELLS, SIDE, GENES = 1_000_000, 8192, 300


@benchmark("inference_shared")
def inference_shared(folder: Path) -> Iterator[Row]:
    """The demo study's model on its held-out slides, in both ways, on the same rows."""
    study = folder / "study"
    command = [sys.executable, "-m", "fixtures", "--size", "demo", "--seed", "1", str(study)]
    subprocess.run(command, cwd=ROOT, check=True)
    yield from compared(study, folder)


def compared(study: Path, folder: Path) -> Iterator[Row]:
    """Trains on a demo study and compares both ways on its held-out part."""
    from ml.models import checkpoint
    from ml.report import ConsoleReport
    from ml.training.run import run
    from tests.ml.conftest import converted, sections

    found = converted(study, folder / "converted")
    given = [section for section in sections(found) if section["part"]]
    inputs = {"sections": given, "work": str(folder / "work")}
    run({"seed": 1}, inputs, folder / "trained", ConsoleReport())
    model = checkpoint.load(folder / "trained" / "model")
    yield from rows_of_both_ways(model, given, folder / "work")


def rows_of_both_ways(model, given: list[dict], work: Path) -> Iterator[Row]:
    """Speed and accuracy of a model on the test part; `work` is the training's."""
    from ml.report import ConsoleReport
    from ml.training.compare import compare_ways
    from ml.training.corpus import Corpus
    from ml.training.prepare import SectionInput, read_images, read_tables

    held_out = [SectionInput.of(s) for s in given if s["part"] in ("train", "test")]
    tables = read_tables(held_out)
    images = read_images(tables, model.config, work, ConsoleReport())
    corpus = Corpus([s for s in images if s.part == "test"], model.config)
    slides = [s.slide() for s in tables.sections if s.given.part == "test"]
    ways = compare_ways(model, corpus, slides, "test", ROWS)
    print(json.dumps(ways), file=sys.stderr)
    yield Row("inference_shared_speedup", ways["speedup"], "x")
    yield Row("inference_shared_pcc_loss", ways["pcc_loss"], f"pcc, {ways['rows']} rows")


@benchmark("inference_peak_memory")
def inference_peak_memory(folder: Path) -> Iterator[Row]:
    """A slide of 8,192 px with a million cells, 300 genes; proportional set size of all processes.

    The model is not trained: what it predicts takes the same memory.
    """
    spec = write_job(folder)
    began = time.perf_counter()
    peak = peak_memory(["-m", "ml.run", str(spec)])
    rate = CELLS / (time.perf_counter() - began)
    print(f"{rate:.0f} cells/s", file=sys.stderr)
    yield Row("inference_peak_memory", peak, "GiB")


def write_job(folder: Path) -> Path:
    """Slide, table and model of a prediction job, and its specification."""
    import pyvips
    from scipy.sparse import csr_matrix

    from ml.io.celltable import write_cell_table
    from ml.io.store import content_hash
    from ml.models import checkpoint
    from ml.models.config import Architecture, ModelConfig
    from ml.models.features import default_spec
    from ml.models.past import PAST
    from ml.tokens.vocabulary import Vocabulary

    rng = np.random.default_rng(0)
    texture = np.kron(rng.normal(0, 30, (256, 256, 3)), np.ones((4, 4, 1)))
    texture = np.clip(texture + np.array([205, 160, 200]), 0, 255).astype(np.uint8)
    image = pyvips.Image.new_from_array(texture).replicate(SIDE // 1024, SIDE // 1024)
    image = image.copy(interpretation="srgb", xres=2000, yres=2000)  # 0.5 µm/px
    image.tiffsave(str(folder / "slide.tif"), compression="jpeg", Q=80, **PYRAMID)
    write_cell_table(
        folder / "cells.zarr",
        counts=csr_matrix((CELLS, 0), dtype=np.uint32),
        symbols=[],
        gene_ids=[],
        xy=rng.uniform(0, SIDE, (CELLS, 2)).astype(np.float32),
        obs_names=[str(i) for i in range(CELLS)],
        row_kind="cell",
        spot_diameter_um=None,
        source="bench",
    )
    symbols = tuple(f"GENE{i}" for i in range(GENES))
    panel = Vocabulary(symbols, np.ones(GENES, np.float32))
    spec = default_spec("cell", None)
    config = ModelConfig("efficientnet_lite0", spec, Architecture(), panel, "cell", None, None, 0.5)
    checkpoint.save(PAST(config), folder / "model")
    slide = {
        "slide": str(folder / "slide.tif"), "slide_code": "S", "patient": "P", "mpp": 0.5,
        "table": str(folder / "cells.zarr"), "table_sha256": content_hash(folder / "cells.zarr")[0],
    }  # fmt: skip
    inputs = {"model": str(folder / "model"), "model_sha256": "0" * 64, "slides": [slide]}
    job = {"kind": "predict", "params": {}, "inputs": inputs, "out": str(folder / "out")}
    (folder / "job.json").write_text(json.dumps(job))
    return folder / "job.json"
