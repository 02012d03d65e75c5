"""The child process of an attempt: `python -m ml.run SPEC.json` in a process group of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

# From SIGTERM to SIGKILL: with the half second until a worker sees a cancel, 4 s from the request.
GRACE_SECONDS = 3.5
TAIL_LINES = 40
# What a computation needs from the environment. Everything else stays here: database, broker and
# object store URLs, keys and tokens are the worker's alone.
_PASSED = ("HOME", "LANG", "PATH", "PAST_EXTRA_KINDS", "PYTHONPATH", "SYSTEMROOT", "TMPDIR", "TZ",
           "USER", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "FORCE_CPU")  # fmt: skip
_PASSED_PREFIXES = ("LC_", "OMP_", "MKL_", "OPENBLAS_", "NUMBA_", "CUDA_", "NVIDIA_", "NCCL_",
                    "PYTORCH_", "TORCH_")  # fmt: skip


def environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    }


def parse(text: str) -> Any:
    """JSON that Postgres accepts too: NaN and infinities become null, NUL characters go."""
    return json.loads(text.replace("\\u0000", ""), parse_constant=lambda _: None)


class Child:
    """Started by the constructor; `say` gets each line of its account as a dict."""

    def __init__(self, spec: Path, log: Path, say: Callable[[dict[str, Any]], None]) -> None:
        self.log = log
        self._say = say
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ml.run", str(spec)],
                cwd=settings.ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            text = line.decode("utf-8", "replace").strip()
            try:
                said = parse(text)
            except ValueError:
                said = None
            if not isinstance(said, dict) or not isinstance(said.get("data"), dict):
                said = {"kind": "log", "data": {"text": text}}
            self._say(said)

    def ended(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end. The process is not reaped yet: its number stays its
        own, so that the group can be signalled safely."""
        deadline = time.monotonic() + seconds
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True

    def stop(self) -> None:
        """SIGTERM to the group, SIGKILL to who is left after a grace of 3.5 s."""
        self._signal(signal.SIGTERM)
        self.ended(GRACE_SECONDS)

    def close(self) -> int:
        """End whatever is left of the group; the exit status, -N for signal N."""
        self._signal(signal.SIGKILL)
        status = self._process.wait()
        self._reader.join()
        if self._process.stdout:
            self._process.stdout.close()
        return status

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def tail(self) -> str:
        """The last lines of what the child and its libraries printed."""
        text = self.log.read_text("utf-8", "replace").replace("\0", "")
        return "\n".join(text.splitlines()[-TAIL_LINES:])


def remember(folder: Path, pid: int) -> None:
    """Note the child in the job's work folder, for the next attempt should this worker die."""
    (folder / "child.json").write_text(json.dumps({"pid": pid, "identity": _identity(pid)}))


def end_leftover(folder: Path) -> None:
    """Kill the child of an earlier attempt if it still runs on this machine. It dies with its
    worker as a rule; two children must never write the same checkpoints."""
    try:
        noted = json.loads((folder / "child.json").read_text())
    except (FileNotFoundError, ValueError):
        return
    if noted["identity"] and _identity(noted["pid"]) == noted["identity"]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(noted["pid"], signal.SIGKILL)
    (folder / "child.json").unlink(missing_ok=True)


def _identity(pid: int) -> str:
    """Boot and start time: process numbers are used again. Empty where there is no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot} {fields[19]}"
