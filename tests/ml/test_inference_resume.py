"""An interrupted prediction goes on where it was, and ends as one that was not interrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ml.io.celltable import CellTable
from tests.ml.test_inference import job

ROOT = Path(__file__).resolve().parents[2]

# Runs a prediction with small blocks, counts what is computed, and ends itself by a signal after
# as many reports of progress in a stage as it is told.
CHILD = """
import json, os, signal, sys
from pathlib import Path
from ml.inference import run as job, shared, slide
from ml.io import layers
from ml.report import ConsoleReport
from ml.segmentation import nuclei

spec = json.loads(Path(sys.argv[1]).read_text())
shared.CORE, layers._BUFFER_BYTES = 200, 4 * 120 * 37
done = {"tiles": 0, "rows": 0, "slides": 0}

def counted(name, owner, function):
    original = getattr(owner, function)
    def call(*args, **kwargs):
        done[name] += len(args[1]) if name == "rows" else 1
        return original(*args, **kwargs)
    setattr(owner, function, call)

counted("tiles", shared.SharedForward, "compute")
counted("rows", layers.LayerWriter, "append")
counted("slides", nuclei, "detect_nuclei")

class Ending(ConsoleReport):
    seen, now = 0, ""
    def stage(self, name):
        self.now = name
    def progress(self, share):
        if spec.get("stage") and self.now.endswith(spec["stage"]):
            self.seen += 1
            if self.seen == spec["after"]:
                os.kill(os.getpid(), spec["signal"])

def stop(number, frame):
    raise SystemExit(143)

signal.signal(signal.SIGTERM, stop)
out = Path(spec["out"])
out.mkdir(exist_ok=True)
result = job.run({"batch": 20}, spec["inputs"], out, Ending())
Path(spec["done"]).write_text(json.dumps({"done": done, "result": result}))
"""


def predict(folder: Path, inputs: dict, **ending) -> tuple[int, dict | None]:
    """Exit status of a child that predicts, and what it says it did."""
    done = folder / "done.json"
    spec = {"out": str(folder / "out"), "done": str(done), "inputs": inputs, **ending}
    spec["inputs"] = {**inputs, "work": str(folder / "work")}
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder / "spec.json")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    if child.returncode == 0:
        return 0, json.loads(done.read_text())
    return child.returncode, {"stderr": child.stderr}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def inputs(tiny, trained):
    """A slide without rows, and one whose rows are given."""
    bare = next(s for s in tiny["slides"] if not s["cells"] and s["stain"] == "H&E")
    given = max((s for s in tiny["slides"] if s["cells"]), key=lambda s: s["cells"]["n_rows"])
    first, second = job(tiny, trained, [bare]), job(tiny, trained, [given], with_tables=True)
    return {**first, "slides": first["slides"] + second["slides"]}


@pytest.fixture(scope="module")
def uninterrupted(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    status, said = predict(folder, inputs)
    assert status == 0, said
    return files(folder / "out"), said


@pytest.mark.parametrize(
    ("stage", "after", "number"),
    [
        ("image features", 3, signal.SIGKILL),
        ("expression and cell types", 2, signal.SIGKILL),
        ("image features", 9, signal.SIGTERM),
    ],
)
def test_interrupted_ends_equal_and_computes_nothing_twice(
    tiny, inputs, uninterrupted, tmp_path, stage, after, number
):
    whole, said = uninterrupted
    folder = tmp_path / "run"
    status, _ = predict(folder, inputs, stage=stage, after=after, signal=int(number))
    assert status == (-number if number == signal.SIGKILL else 143)
    assert not (folder / "out" / "layers").exists()

    status, resumed = predict(folder, inputs)
    assert status == 0, resumed
    assert files(folder / "out") == whole
    assert {**resumed["result"], "seconds": 0, "rows_per_s": 0} == {
        **said["result"], "seconds": 0, "rows_per_s": 0,
    }  # fmt: skip
    # The rows of the first slide were found before; finished tiles are not computed again. Of a
    # computation that runs ahead of what is written, the last few may be.
    assert resumed["done"]["slides"] == 0 and said["done"]["slides"] == 1
    left = said["done"]["tiles"] - resumed["done"]["tiles"]
    assert left >= after - 1 if stage == "image features" else left > 0
    if stage == "expression":
        rows = sum(slide["n_rows"] for slide in said["result"]["slides"])
        assert said["done"]["rows"] == rows > resumed["done"]["rows"] + 36


def test_another_model_or_table_starts_anew(inputs, uninterrupted, tmp_path):
    _, said = uninterrupted
    folder = tmp_path / "run"
    predict(folder, inputs, stage="expression", after=2, signal=int(signal.SIGKILL))
    status, resumed = predict(folder, {**inputs, "model_sha256": "0" * 64})
    assert status == 0, resumed
    assert resumed["done"]["tiles"] == said["done"]["tiles"]
    assert resumed["done"]["rows"] == said["done"]["rows"]
    assert CellTable.open(folder / "out" / "tables" / next(
        path.name for path in (folder / "out" / "tables").iterdir()
    )).n_rows > 20  # fmt: skip
