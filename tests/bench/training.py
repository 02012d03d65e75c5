"""How fast the demo's model trains on this machine, whole job, start to registered version."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.registry import Row, benchmark
from tests.instance import ROOT, Instance
from tests.session import Session


@benchmark("train_rate")
def train_rate(folder: Path) -> Iterator[Row]:
    """Cells per second that the training loop of the demo study went through."""
    subprocess.run(
        [sys.executable, "-m", "fixtures", "--size", "demo", "--seed", "1", str(folder / "study")],
        cwd=ROOT,
        check=True,
    )
    with Instance(folder / "var") as app:
        app.manage("import_study", str(folder / "study"))
        session = Session.login(app.url, "admin")
        study = session.get("/api/v1/studies/")["results"][0]["slug"]
        session.wait(session.post(f"/api/v1/studies/{study}/train/", {"seed": 1}), 900)
        model = session.get(f"/api/v1/studies/{study}/models/")["results"][0]
        yield Row("train_rate", float(model["metrics"]["cells_per_s"]), "cells/s")
