"""Keeps the application running on one machine: web, workers and the reconciler.

    python -m backend.config.supervisor --port 8000     runs until SIGTERM or Ctrl-C
    python -m backend.config.supervisor --stop          ends the one that runs here

Whatever dies is started again; a killed Dramatiq child takes its master down, so this is needed.
Logs are in VAR/log. Larger installations let systemd do the same (see deploy/).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import IO

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backend.config.settings.dev")

RECONCILE_SECONDS = 2.0  # with the silence of a dead worker, a cancel takes less than 5 s
STOP_SECONDS = 20.0
LONGEST_PAUSE_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

logger = logging.getLogger("supervisor")


class Service:
    """A process group that is started again when it ends, after a pause that grows while it keeps
    ending at once."""

    def __init__(self, name: str, command: list[str], folder: Path, log: Path) -> None:
        self.name = name
        self._command = [sys.executable, "-m", *command]
        self._folder = folder
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = 0.0

    def tend(self) -> None:
        """Start it where it does not run and its pause is over."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._ended()
        if time.monotonic() >= self._started + self._pause:
            self._start()

    def _start(self) -> None:
        self._started = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                # One job at a time means that the next waits in the broker, not in this worker.
                env={**os.environ, "dramatiq_queue_prefetch": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_supervisor,
            )
        logger.info("%s runs as process %s", self.name, self._process.pid)

    def _ended(self) -> None:
        if self._process is None:
            return
        status, lived = self._process.returncode, time.monotonic() - self._started
        self._pause = 0.0 if lived > 10 else min(2 * self._pause + 1, LONGEST_PAUSE_SECONDS)
        logger.warning("%s ended with status %s after %.0f s", self.name, status, lived)
        self._kill_group()  # what a killed master left behind
        self._process = None

    def _kill_group(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def ask_to_stop(self) -> None:
        """SIGTERM to the master alone: a Dramatiq worker takes a second one as an order to die."""
        if self._process is not None:
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for the end of a service that was asked to stop; kill it at the deadline."""
        if self._process is None:
            return
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            logger.warning("%s did not stop in time and is killed", self.name)
        self._kill_group()
        self._process.wait()


def _end_with_supervisor() -> None:
    """In the child, before exec: SIGTERM when the supervisor is killed."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def services(host: str, port: int, root: Path, logs: Path) -> list[Service]:
    web = ["gunicorn", "backend.config.wsgi:application", "--bind", f"{host}:{port}",
           "--workers", "2", "--threads", "4", "--worker-class", "gthread",
           "--graceful-timeout", "10", "--no-control-socket"]  # fmt: skip
    worker = ["dramatiq", "backend.config.worker", "--processes", "1", "--threads", "1",
              "--worker-shutdown-timeout", "15000", "--queues"]  # fmt: skip
    return [
        Service("web", web, root, logs / "web.log"),
        Service("worker-cpu", [*worker, "cpu"], root, logs / "worker-cpu.log"),
        Service("worker-gpu", [*worker, "gpu"], root, logs / "worker-gpu.log"),
    ]


def _care(ring_again: timedelta | None = None) -> None:
    """One round of the reconciler; a failure is logged and the next round tries again."""
    from django.conf import settings
    from django.db import close_old_connections

    from backend.config.postgres import ensure_running
    from backend.jobs.recovery import RING_AGAIN, reconcile

    try:
        if settings.EMBEDDED_POSTGRES:
            ensure_running(settings.VAR)
        close_old_connections()
        reconcile(ring_again=RING_AGAIN if ring_again is None else ring_again)
    except Exception:
        logger.exception("The reconciler failed; it tries again in %s s", RECONCILE_SECONDS)


def run(host: str, port: int) -> None:
    """Run everything until SIGTERM or SIGINT."""
    from django.conf import settings

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    running = services(host, port, settings.ROOT, settings.VAR / "log")
    # Nobody knows yet what the broker still holds, so every waiting job is rung for.
    _care(ring_again=timedelta(0))
    due = time.monotonic() + RECONCILE_SECONDS
    while not stop.is_set():
        for service in running:
            service.tend()
        if time.monotonic() >= due:
            _care()
            due = time.monotonic() + RECONCILE_SECONDS
        stop.wait(0.5)
    deadline = time.monotonic() + STOP_SECONDS
    for service in running:
        service.ask_to_stop()
    for service in running:
        service.end(deadline)


def _claim(pid_file: Path) -> IO[str] | None:
    """The pid file, locked as long as we live; None where another supervisor holds it."""
    file = pid_file.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def stop_running(pid_file: Path) -> None:
    """End the supervisor of this installation, if one runs, and wait for it."""
    deadline = time.monotonic() + STOP_SECONDS + 10
    while pid_file.exists() and time.monotonic() < deadline:
        with pid_file.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                with contextlib.suppress(ValueError, ProcessLookupError):
                    os.kill(int(file.read()), signal.SIGTERM)
        time.sleep(0.3)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.config.supervisor")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--stop", action="store_true")
    options = parser.parse_args(arguments)

    from backend.config.settings.base import VAR

    if options.stop:
        stop_running(VAR / "supervisor.pid")
        return 0
    (VAR / "log").mkdir(parents=True, exist_ok=True)
    claim = _claim(VAR / "supervisor.pid")
    if claim is None:
        print(f"The application of {VAR} runs already; stop it with --stop.", file=sys.stderr)
        return 1
    with claim:
        django.setup()
        logging.basicConfig(
            filename=VAR / "log" / "supervisor.log",
            format="%(asctime)s %(levelname)s %(name)s %(message)s",
            level=logging.INFO,
            force=True,
        )
        run(options.host, options.port)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
