"""How a long computation tells what it is doing, whoever listens: a worker or a terminal."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from typing import IO, Any, Protocol

_PROGRESS_INTERVAL = 0.25  # seconds; the page polls once a second
_BAR = 30  # characters
_LONG = 20.0  # seconds after which progress is worth a line where there is no terminal


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
        self._from: tuple[float, float] | None = None
        self._drawn, self._tenth, self._on_line = -math.inf, 0, False

    def stage(self, name: str) -> None:
        self._print(f"== {name}")
        self._begin()

    def progress(self, share: float) -> None:
        """A bar that is drawn over, where there is a terminal; else a line per tenth."""
        now, share = time.monotonic(), min(1.0, max(0.0, share))
        if self._from is None:
            # What was there already (a resumed training) says nothing of the time that is left.
            self._from = (now, share)
        began, before = self._from
        left = (now - began) * (1 - share) / (share - before) if share > before else None
        if self._stream.isatty():
            if share < 1 and now - self._drawn < _PROGRESS_INTERVAL:
                return
            self._drawn = now
            bar = "█" * int(share * _BAR) + "·" * (_BAR - int(share * _BAR))
            print(f"\r   {bar} {share:4.0%} {_left(left)}", end="", file=self._stream, flush=True)
            self._on_line = True
        elif left is not None and int(share * 10) > self._tenth and now - began > _LONG:
            self._print(f"   {share:.0%} {_left(left)}")
        self._tenth = int(share * 10)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        at = "" if step is None else f" ({step})"
        self._print(f"   {name}{at}: {value:.4g}")

    def log(self, text: str) -> None:
        self._print(f"   {text}")

    def _begin(self) -> None:
        self._from = None
        self._drawn, self._tenth, self._on_line = -math.inf, 0, False

    def _print(self, line: str) -> None:
        # A bar is overwritten by what comes next, and drawn again below it.
        clear = "\r" + " " * (_BAR + 32) + "\r" if self._on_line else ""
        self._on_line, self._drawn = False, -math.inf
        print(clear + line, file=self._stream, flush=True)

    def should_stop(self) -> bool:
        return False


class SilentReport:
    """Says nothing: the processes of a training beside the first."""

    def stage(self, name: str) -> None:
        pass

    def progress(self, share: float) -> None:
        pass

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        pass

    def log(self, text: str) -> None:
        pass

    def should_stop(self) -> bool:
        return False


def _left(seconds: float | None) -> str:
    """Time left, as a person says it."""
    if seconds is None or seconds < 1:
        return " " * 14
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{rest:02d}"
    return f"{text} left".ljust(18)


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
