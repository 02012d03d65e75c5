"""The child process of a job: events, result, exit status, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.report import plain
from ml.run import INPUT_EXIT, STOPPED_EXIT
from tests.ml.io.conftest import study

__all__ = ["study"]

# Kinds that behave badly in the ways a computation can.
KINDS = """
import os, time
from ml.errors import InputError

def chatty(params, inputs, out, report):
    print("a library says something")
    os.system("echo and so does a program")
    report.stage("Working")
    report.progress(0.5)
    report.metric("loss", float("nan"), 3)
    return {"answer": params["answer"], "undefined": float("inf")}

def wrong_input(params, inputs, out, report):
    raise InputError("slide.no_mpp", "a.tif", "What.", "Remedy.")

def broken(params, inputs, out, report):
    return 1 / 0

def endless(params, inputs, out, report):
    try:
        report.stage("Waiting")
        while True:
            time.sleep(0.05)
    finally:
        (out / "cleaned").write_text("")
"""


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Starts a job of one of KINDS; returns the process and the folder it writes to."""
    (tmp_path / "kinds_of_a_test.py").write_text(KINDS)
    names = ("chatty", "wrong_input", "broken", "endless")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path.cwd()}:{tmp_path}",
        "PAST_EXTRA_KINDS": ",".join(f"{name}=kinds_of_a_test.{name}" for name in names),
    }
    out = tmp_path / "out"

    def start(kind: str, **spec: Any) -> tuple[subprocess.Popen[str], Path]:
        path = tmp_path / "spec.json"
        path.write_text(json.dumps({"kind": kind, "params": {}, "out": str(out), **spec}))
        process = subprocess.Popen(
            [sys.executable, "-m", "ml.run", str(path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return process, out

    return start


def events_of(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, _ = process.communicate(timeout=60)
    return [json.loads(line) for line in out.splitlines()]


def test_events_on_stdout_and_nothing_else(start: Any) -> None:
    process, out = start("chatty", params={"answer": 42})
    assert events_of(process) == [
        {"kind": "stage", "data": {"name": "Working"}},
        {"kind": "progress", "data": {"progress": 0.5}},
        {"kind": "metric", "data": {"name": "loss", "value": None, "step": 3}},
    ]
    assert process.returncode == 0
    assert json.loads((out / "result.json").read_text()) == {"answer": 42, "undefined": None}
    assert [p.name for p in out.iterdir()] == ["result.json"]


def test_input_error_reaches_the_user_whole(start: Any) -> None:
    process, out = start("wrong_input")
    assert events_of(process)[-1] == {
        "kind": "error",
        "data": {"code": "slide.no_mpp", "where": "a.tif", "what": "What.", "remedy": "Remedy."},
    }
    assert process.returncode == INPUT_EXIT
    assert not (out / "result.json").exists()


def test_failure_keeps_its_traceback(start: Any) -> None:
    process, _ = start("broken")
    data = events_of(process)[-1]["data"]
    assert (data["code"], data["what"]) == ("code", "ZeroDivisionError: division by zero")
    assert "kinds_of_a_test.py" in data["traceback"]
    assert process.returncode == 1


def test_unknown_kind_is_an_input_error(start: Any) -> None:
    process, _ = start("guess")
    assert events_of(process)[-1]["data"]["code"] == "job.unknown_kind"
    assert process.returncode == INPUT_EXIT


def test_sigterm_stops_it_cleanly_and_at_once(start: Any) -> None:
    process, out = start("endless")
    assert json.loads(process.stdout.readline())["data"]["name"] == "Waiting"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == STOPPED_EXIT
    assert time.monotonic() - began < 2
    assert (out / "cleaned").exists()
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is told by Linux only")
def test_it_dies_with_its_parent(start: Any, tmp_path: Path) -> None:
    process, _ = start("endless")
    process.stdout.readline()
    process.terminate()
    process.communicate()
    parent_code = (
        "import subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-m', 'ml.run', sys.argv[1]]);"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{tmp_path}",
                   "PAST_EXTRA_KINDS": "endless=kinds_of_a_test.endless"}  # fmt: skip
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code, str(tmp_path / "spec.json")],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child = int(parent.stdout.readline())
    assert "Waiting" in parent.stdout.readline()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def test_an_import_runs_as_a_job(start: Any, study: Path) -> None:
    process, out = start("import", params={"format": "auto"}, inputs={"path": str(study)})
    stages = [e["data"]["name"] for e in events_of(process) if e["kind"] == "stage"]
    assert stages == ["Checking the study", "Converting slides", "Writing patient tables"]
    result = json.loads((out / "result.json").read_text())
    assert (out / result["slides"][0]["cells"]["path"] / "zarr.json").exists()


def test_plain() -> None:
    value = {"a": np.float32(0.5), "b": [np.int64(3), np.array([1.0, np.nan])], 3: (True, None)}
    assert plain(value) == {"a": 0.5, "b": [3, [1.0, None]], "3": [True, None]}
