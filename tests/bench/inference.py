"""Whole-slide inference: speed and accuracy of its two ways, and memory over a large slide."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.memory import peak_memory
from tests.bench.registry import Row, benchmark
from tests.bench.studies import PYRAMID
from tests.instance import ROOT

# Rows of the test part that the accuracy is over, about; they are seen in both ways.
ROWS = 600
CELLS, SIDE = 1_000_000, 20_480
# How far the copies of a cell lie from it at most, in µm: no two rows are the same.
_APART_UM = 4.0


@benchmark("inference")
def inference(folder: Path) -> Iterator[Row]:
    """A model of the demo study on slides of its test part, and on a slide of a million cells.

    The slide is a test section side by side, 105 mm² in all; each of its cells stands there about
    three times, a few µm apart, which makes the density of lymphoid tissue.
    """
    found = _demo(folder)
    model = _trained(found, folder)
    yield from ways(model, found, folder)
    yield from memory(model, found, folder)


def ways(model: Path, found: list[dict[str, Any]], folder: Path) -> Iterator[Row]:
    """Cells/s of the shared forward over that of a window around each cell, and the PCC it costs.

    Args:
        model: folder of the checkpoint.
        found: the study's measured sections, as a training job names them.
        folder: scratch.
    """
    from ml.inference.features import device
    from ml.models import checkpoint
    from ml.report import ConsoleReport
    from ml.training.compare import compare_ways
    from ml.training.corpus import Corpus
    from ml.training.prepare import SectionInput, read_images, read_tables

    loaded = checkpoint.load(model, device())
    # The panel is that of the training tables; only the test part is seen.
    tables = read_tables([SectionInput.of(section) for section in found])
    assert tuple(tables.symbols) == loaded.config.vocabulary.symbols
    tables.sections[:] = [s for s in tables.sections if s.given.part == "test"]
    sections = read_images(tables, loaded.config, folder / "features", ConsoleReport())
    stated = compare_ways(
        loaded,
        Corpus(sections, loaded.config),
        [measured.slide() for measured in tables.sections],
        part="test",
        rows=ROWS,
    )
    assert stated is not None
    print(json.dumps(stated), file=sys.stderr)
    shared, crop = stated["shared"], stated["crop"]
    yield Row(
        "inference_rate", shared["rows_per_s"], "cells/s", crop["rows_per_s"], stated["speedup"]
    )
    yield Row("inference_shared_speedup", stated["speedup"], "x")
    yield Row("inference_shared_pcc_loss", stated["pcc_loss"], "pcc", crop["pcc"])


def memory(model: Path, found: list[dict[str, Any]], folder: Path) -> Iterator[Row]:
    """Peak memory of a prediction on the slide of a million cells."""
    section = next(s for s in found if s["part"] == "test" and s["slide_code"].endswith("-section"))
    job = folder / "job.json"
    job.write_text(json.dumps(_large(model, section, folder / "large")))
    yield Row(
        "inference_peak_memory", peak_memory(["-m", "tests.bench.inference", str(job)]), "GiB"
    )


def _demo(folder: Path) -> list[dict[str, Any]]:
    from tests.ml.conftest import converted, sections

    subprocess.run(
        [sys.executable, "-m", "fixtures", "--size", "demo", "--seed", "1", str(folder / "study")],
        cwd=ROOT,
        check=True,
    )
    return sections(converted(folder / "study", folder / "converted"))


def _trained(found: list[dict[str, Any]], folder: Path) -> Path:
    from ml.report import ConsoleReport
    from ml.training.run import run

    inputs = {"sections": found, "work": str(folder / "work")}
    run({"seed": 1}, inputs, folder / "trained", ConsoleReport())
    return folder / "trained" / "model"


def _large(model: Path, section: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The slide and its rows, as the inputs of a predict job."""
    import pyvips
    from scipy.sparse import csr_matrix

    from ml.io.celltable import CellTable, write_cell_table
    from ml.io.store import content_hash

    folder.mkdir(parents=True)
    page = pyvips.Image.new_from_file(section["slide"])
    across, down = (-(-SIDE // side) for side in (page.width, page.height))
    copies = page.copy(xres=1000 / section["mpp"], yres=1000 / section["mpp"])
    image = copies.replicate(across, down).crop(0, 0, SIDE, SIDE)
    image.tiffsave(str(folder / "large.tif"), compression="jpeg", Q=90, **PYRAMID)

    cells, rng = CellTable.open(Path(section["table"])).xy(), np.random.default_rng(0)
    corners = [(i * page.width, j * page.height) for i in range(across) for j in range(down)]
    once = np.concatenate([cells + np.asarray(corner) for corner in corners])
    often = np.repeat(once, 1 + 2 * CELLS // len(once), axis=0)
    often = often + rng.uniform(-1, 1, often.shape) * _APART_UM / section["mpp"]
    inside = often[((often > 0) & (often < SIDE)).all(axis=1)]
    xy = rng.permutation(inside)[:CELLS].astype(np.float32)
    assert len(xy) == CELLS
    write_cell_table(
        folder / "cells.zarr",
        counts=csr_matrix((CELLS, 0), dtype=np.uint32), symbols=[], gene_ids=[],
        xy=xy, obs_names=[str(i) for i in range(CELLS)],
        row_kind="cell", spot_diameter_um=None, source="copies of a section's",
    )  # fmt: skip
    return {
        "inputs": {
            "model": str(model), "model_sha256": content_hash(model)[0],
            "slides": [{
                "slide": str(folder / "large.tif"), "slide_code": "large", "patient": "P",
                "mpp": section["mpp"], "table": str(folder / "cells.zarr"),
                "table_sha256": content_hash(folder / "cells.zarr")[0],
            }],
            "work": str(folder / "work"),
        },
        "out": str(folder / "out"),
    }  # fmt: skip


def _predict(job: Path) -> None:
    """The prediction of which the memory is measured; it must write all of the layer."""
    from ml.inference.run import run
    from ml.io.layers import Layer
    from ml.report import ConsoleReport

    given = json.loads(job.read_text())
    out = Path(given["out"])
    out.mkdir(parents=True, exist_ok=True)
    result = run({"way": "shared"}, given["inputs"], out, ConsoleReport())
    (slide,) = result["slides"]
    if slide["declined"]:
        raise RuntimeError(f"the slide was declined: {slide['ood_share']:.0%} look unlike training")
    assert Layer.open(out / slide["layer"]).n_rows == CELLS
    print(f"{result['rows_per_s']:.0f} cells/s, {slide['ood_share']} unlike", file=sys.stderr)


if __name__ == "__main__":
    _predict(Path(sys.argv[1]))
