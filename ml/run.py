"""Runs one job specification in a process of its own: ``python -m ml.run SPEC.json``.

SPEC is ``{"kind", "params", "inputs", "out", "events_fd"}``. Events go out as JSON lines on
`events_fd` (standard output by default; whatever libraries print goes to standard error), and the
result is written to ``OUT/result.json`` when the job is done. No Django, no database.
PAST_EXTRA_KINDS in the environment (``name=module.function,…``) adds kinds of an extension.

Exit status: 0 done; 3 something in the input must be changed by the user (the last event is
``error`` with code, where, what, remedy); 1 anything else that failed; 143 stopped by SIGTERM.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml.errors import InputError
from ml.report import PipeReport, Report, plain

Run = Callable[[dict[str, Any], dict[str, Any], Path, Report], dict[str, Any]]

KINDS = {
    "import": "ml.io.study.run_import",
    "train": "ml.training.run.run",
    "predict": "ml.inference.run.run",
    "evaluate": "ml.evaluation.run.run",
    "fit_survival": "ml.tasks.survival_fit.run",
}
INPUT_EXIT, FAILURE_EXIT, STOPPED_EXIT = 3, 1, 128 + signal.SIGTERM
_PR_SET_PDEATHSIG = 1


def load(kind: str) -> Run:
    """The function that runs a kind of job; imported only now.

    Raises:
        InputError: ``job.unknown_kind``.
    """
    kinds = {**KINDS, **_extra_kinds()}
    if kind not in kinds:
        raise InputError(
            "job.unknown_kind",
            "kind",
            f"there is no kind of job named {kind!r}.",
            f"Choose one of: {', '.join(sorted(kinds))}.",
        )
    module, _, name = kinds[kind].rpartition(".")
    run: Run = getattr(importlib.import_module(module), name)
    return run


def _extra_kinds() -> dict[str, str]:
    entries = os.environ.get("PAST_EXTRA_KINDS", "").split(",")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def run_spec(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Runs a specification and writes its result; returns the result."""
    out = Path(spec["out"])
    out.mkdir(parents=True, exist_ok=True)
    run = load(spec["kind"])
    result = plain(run(spec.get("params", {}), spec.get("inputs", {}), out, report))
    part = out / ".result.json.part"
    part.write_text(json.dumps(result, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    part.replace(out / "result.json")
    return dict(result)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the child process; returns its exit status."""
    (spec_path,) = sys.argv[1:] if arguments is None else arguments
    _end_with_parent()
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    report = PipeReport(_take_events_stream(int(spec.get("events_fd", 1))))
    _stop_on_sigterm(report)
    try:
        run_spec(spec, report)
    except InputError as error:
        report.event("error", error.as_dict())
        return INPUT_EXIT
    except Exception as error:
        report.event(
            "error",
            {
                "code": "code",
                "what": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            },
        )
        return FAILURE_EXIT
    return 0


def _take_events_stream(number: int) -> Any:
    """Opens the events stream; if it is standard output, prints now go to standard error."""
    stream = os.fdopen(os.dup(number), "w", encoding="utf-8")
    if number == 1:
        sys.stdout.flush()
        os.dup2(2, number)
    return stream


def _stop_on_sigterm(report: PipeReport) -> None:
    def stop(_signal: int, _frame: object) -> None:
        # Once is enough: the second signal must not interrupt the cleaning up after the first.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        report.stopping = True
        raise SystemExit(STOPPED_EXIT)

    signal.signal(signal.SIGTERM, stop)


def _end_with_parent() -> None:
    """Has the kernel kill this process when its worker dies, so that no attempt runs on beside
    the one that replaces it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            raise SystemExit(FAILURE_EXIT)


if __name__ == "__main__":
    sys.exit(main())
