"""A kind of job for tests: it counts steps, remembers how far it came, and fails on request."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from ml.errors import InputError

ENVIRONMENT = {"PAST_EXTRA_KINDS": "toy=tests.backend.jobs.toy.run"}


class ToyParams(BaseModel):
    steps: int = Field(default=1, ge=1)
    seconds: float = 0.0  # a step
    fault: Literal[
        "", "input", "code", "exit", "kill once", "kill", "prepare", "commit", "stubborn", "nan"
    ] = ""


def run(params: dict[str, Any], inputs: dict[str, Any], out: Path, report: Any) -> dict[str, Any]:
    """The part in `ml`: runs in a child process that `ml.run` starts."""
    work = Path(inputs["work"])
    (work / "pid").write_text(str(os.getpid()))
    reached = work / "reached"
    first = int(reached.read_text()) if reached.exists() else 0
    report.stage("Counting")
    report.log(f"from {first}")
    _go_wrong(params["fault"], work, report)
    for step in range(first, params["steps"]):
        time.sleep(params["seconds"])
        (work / "reached.new").write_text(str(step + 1))
        (work / "reached.new").rename(reached)
        report.metric("step", step + 1, step)
        report.progress((step + 1) / params["steps"])
    (out / "counted.txt").write_text(f"{params['steps']} steps of {work.name}")
    return {"steps": params["steps"], "resumed_from": first, "environment": sorted(os.environ)}


def _go_wrong(fault: str, work: Path, report: Any) -> None:
    if fault == "input":
        raise InputError("toy.bad", "toy.csv row 3", "The count is negative.", "Correct the count.")
    if fault == "code":
        raise ZeroDivisionError("an honest mistake\0")
    if fault == "exit":
        print("last words", flush=True)
        os._exit(7)
    if fault == "kill" or (fault == "kill once" and not (work / "killed").exists()):
        (work / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "nan":
        report.metric("loss", float("nan"))
        report.log("a \0 in the log")
    if fault == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        grandchild = subprocess.Popen(["sleep", "300"])
        (work / "grandchild").write_text(str(grandchild.pid))


def register() -> None:
    from backend.accounts.permissions import Action
    from backend.jobs import kinds
    from backend.jobs.services import store_artifact, work_folder

    def prepare(job) -> kinds.Spec:
        if job.parameters["fault"] == "prepare":
            raise InputError("toy.gone", "the toy", "It is gone.", "Buy another.")
        return kinds.Spec(params=job.parameters, inputs={"work": str(work_folder(job))})

    def commit(job, result, out) -> dict:
        artifact = store_artifact(job=job, path=out / "counted.txt", kind="dataset")
        if job.parameters["fault"] == "commit":
            raise ValueError("the rows do not fit")
        return {**result, "artifact": artifact.pk, "links": [{"label": "Toy", "url": "/toys/1/"}]}

    with_toy = kinds.JobKind(
        name="toy", params=ToyParams, prepare=prepare, commit=commit, queue="gpu",
        action=Action.MODEL_TRAIN, title=lambda params: f"Count to {params.steps}",
    )  # fmt: skip
    kinds.register(with_toy)
