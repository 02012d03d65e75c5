"""A drawn study of seconds' size, imported through the real job once per test that asks for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backend.jobs.models import Job
from backend.jobs.runner import run_attempt


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """A study folder of the generator: of its H&E slides 10 are measured."""
    folder = tmp_path_factory.mktemp("drawn") / "tiny"
    subprocess.run(
        [sys.executable, "-m", "fixtures", "--size", "tiny", "--seed", "1", str(folder)],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def run_here(transactional_db, object_store, settings):
    """`run_here(job) -> Job`: one attempt by the real runner in this process, no worker."""

    def run(job: Job) -> Job:
        run_attempt(job.pk)
        job.refresh_from_db()
        return job

    return run
