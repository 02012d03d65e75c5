"""The tiny synthetic study, generated and imported once, as jobs see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml.report import ConsoleReport


class Recorder(ConsoleReport):
    """Keeps metrics; stops after as many questions as it is told."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.metrics: list[tuple[str, float, int | None]] = []
        self.left = stop_after

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self.metrics.append((name, value, step))

    def should_stop(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0


def converted(study: Path, out: Path) -> dict[str, Any]:
    """A generated study, imported: what the import found, with its folder."""
    from ml.io.study import convert_study

    out.mkdir()
    return {"folder": out, **convert_study(study, out, ConsoleReport())}


def sections(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Its measured slides as a training job names them, in the parts that the study planned."""
    from ml.io.store import content_hash

    folder = found["folder"]
    parts = {p["code"]: p["part"] for p in found["patients"]}
    return [
        {
            "slide": str(folder / s["file"]),
            "table": str(folder / s["cells"]["path"]),
            "slide_code": s["code"],
            "patient": s["patient"],
            "part": parts[s["patient"]],
            "mpp": s["info"]["mpp"],
            "slide_sha256": content_hash(folder / s["file"])[0],
            "table_sha256": content_hash(folder / s["cells"]["path"])[0],
        }
        for s in found["slides"]
        if s["cells"]
    ]


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Study folder of the tiny size; its null twins lie beside it, ``study-permuted`` and
    ``study-shifted``."""
    from fixtures.config import SIZES
    from fixtures.write import write_study

    study = tmp_path_factory.mktemp("tiny") / "study"
    write_study(SIZES["tiny"], 1, study, say=lambda text: None)
    return study


@pytest.fixture(scope="session")
def tiny(generated: Path) -> dict[str, Any]:
    return converted(generated, generated.parent / "converted")


@pytest.fixture(scope="session")
def tiny_null(generated: Path) -> dict[str, Any]:
    return converted(generated.with_name("study-permuted"), generated.parent / "converted-null")


@pytest.fixture(scope="session")
def trained(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small model of the tiny study: the job's result, and where it lies."""
    from ml.training.run import run

    out = tmp_path_factory.mktemp("trained")
    inputs = {"sections": sections(tiny), "parent": None, "work": str(out / "work")}
    recorder = Recorder()
    params = {"preset": "tiny", "epochs": 3, "seed": 5}
    result = run(params, inputs, out, recorder)
    return {
        "out": out, "result": result, "inputs": inputs, "params": params,
        "metrics": recorder.metrics,
    }  # fmt: skip
