from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.browser import chromium
from tests.instance import ROOT, Instance


@pytest.fixture(scope="session")
def app(tmp_path_factory):
    """The whole application, served, with its workers."""
    with Instance(tmp_path_factory.mktemp("app")) as instance:
        yield instance


@pytest.fixture(scope="session")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def tiny_study(app) -> Path:
    """Drawn inside the instance's folder, from which browser imports may read."""
    folder = app.var / "tiny-study"
    subprocess.run(
        [sys.executable, "-m", "fixtures", "--size", "tiny", "--seed", "1", str(folder)],
        cwd=ROOT,
        check=True,
    )
    return folder
