"""How a long computation tells what it is doing, whoever listens: a worker or a terminal."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from typing import IO, Any, Protocol

_PROGRESS_INTERVAL = 0.25  # seconds; the page polls once a second


class Report(Protocol):
    """Where a computation reports to."""

    def stage(self, name: str) -> None:
        """A new stage begins, e.g. "Training"; progress counts from 0 again."""

    def progress(self, share: float) -> None:
        """The share of the current stage that is done, 0 to 1."""

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """A figure worth plotting, e.g. ("validation_pcc", 0.21, step=3)."""

    def log(self, text: str) -> None:
        """A sentence the user should be able to read afterwards."""

    def should_stop(self) -> bool:
        """Whether the computation was asked to stop; asked between steps."""


class PipeReport:
    """Writes one JSON line per event: ``{"kind": "stage", "data": {"name": …}}``."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._last_progress = -math.inf
        self.stopping = False

    def stage(self, name: str) -> None:
        self.event("stage", {"name": name})
        self._last_progress = -math.inf

    def progress(self, share: float) -> None:
        now = time.monotonic()
        if share < 1 and now - self._last_progress < _PROGRESS_INTERVAL:
            return
        self._last_progress = now
        self.event("progress", {"progress": min(1.0, max(0.0, share))})

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        self.event("metric", {"name": name, "value": value, "step": step})

    def log(self, text: str) -> None:
        self.event("log", {"text": text})

    def should_stop(self) -> bool:
        return self.stopping

    def event(self, kind: str, data: dict[str, Any]) -> None:
        line = json.dumps(plain({"kind": kind, "data": data}), ensure_ascii=False)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


class ConsoleReport:
    """Prints stages, figures and sentences to a terminal, on standard error by default."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr

    def stage(self, name: str) -> None:
        print(f"== {name}", file=self._stream, flush=True)

    def progress(self, share: float) -> None:
        if self._stream.isatty():
            print(f"   {share:4.0%}", end="\r", file=self._stream, flush=True)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        at = "" if step is None else f" ({step})"
        print(f"   {name}{at}: {value:.4g}", file=self._stream, flush=True)

    def log(self, text: str) -> None:
        print(f"   {text}", file=self._stream, flush=True)

    def should_stop(self) -> bool:
        return False


def plain(value: Any) -> Any:
    """The value as JSON knows it: NumPy numbers as numbers; NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
