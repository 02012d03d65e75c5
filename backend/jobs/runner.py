"""One attempt of a job, from lease to commit."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import signal
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from django.db import InterfaceError, OperationalError, connections

from backend.jobs import children, events, kinds, leases
from backend.jobs.broker import stopping
from backend.jobs.models import Job, JobEvent
from backend.jobs.services import work_folder
from ml.errors import InputError

logger = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
INPUT_ERROR_EXIT = 3  # of ml.run
# What a full or failing disk, or a lost network share, says; other OSErrors are faults of ours.
_MACHINE_ERRORS = {
    errno.EDQUOT, errno.EHOSTUNREACH, errno.EIO, errno.ENETUNREACH, errno.ENOMEM, errno.ENOSPC,
    errno.EROFS, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip

_SAID = {str(kind) for kind in JobEvent.Kind} - {"status"}


class StandDown(Exception):
    """This worker was asked to end."""


class Failed(Exception):
    """The attempt failed; `kind` says whose failure it is, `failure` what to do about it."""

    def __init__(self, kind: str, code: str, where: str, what: str, remedy: str) -> None:
        super().__init__(what)
        self.kind = kind
        self.failure = {"code": code, "where": where, "what": what, "remedy": remedy}


class Pulse:
    """Renews the lease twice a second and saves what the child said.

    A thread with a database connection of its own. Use as a context manager; `check`
    raises as soon as the attempt should end.
    """

    def __init__(self, job: Job) -> None:
        self.error: dict[str, Any] | None = None
        self._job = job
        self._entries: list[events.Entry] = []
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._verdict: type[Exception] | None = None
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def hear(self, said: dict[str, Any]) -> None:
        """One line of the child's account."""
        kind, data = said.get("kind"), said["data"]
        if kind == "error":
            self.error = data
            return
        with self._lock:
            if kind == "progress" and self._entries and self._entries[-1][0] == "progress":
                self._entries.pop()
            self._entries.append((kind, data) if kind in _SAID else ("log", {"text": str(said)}))

    def check(self) -> None:
        if self._verdict:
            raise self._verdict
        if stopping.is_set():
            raise StandDown

    def stop(self) -> None:
        """End the thread and save what is left to say; the lease runs on."""
        if self._end.is_set():
            return
        self._end.set()
        self._thread.join()
        if self._entries and self._verdict is not leases.Lost:
            self._renew()

    def _beat(self) -> None:
        deadline = time.monotonic() + leases.DURATION.total_seconds()
        while not self._end.wait(BEAT_SECONDS) and self._verdict is not leases.Lost:
            try:
                self._renew()
                deadline = time.monotonic() + leases.DURATION.total_seconds()
            except (OperationalError, InterfaceError):
                # The database is away; what was said waits. Without it the lease runs out.
                connections.close_all()
                if time.monotonic() > deadline:
                    self._verdict = leases.Lost
            except Exception:
                logger.exception("The pulse of job %s stopped.", self._job.pk)
                self._verdict = leases.Lost
        connections.close_all()

    def _renew(self) -> None:
        with self._lock:
            entries = list(self._entries)
        try:
            status = leases.renew(self._job, entries)
        except leases.Lost:
            self._verdict = leases.Lost
            return
        with self._lock:
            del self._entries[: len(entries)]
        if status == Job.Status.CANCELLING:
            self._verdict = leases.Cancelled


def run_attempt(job_id: int) -> None:
    """Run the job if it waits; otherwise return at once."""
    job = None if stopping.is_set() else leases.take(job_id)
    if job is None:
        return
    folder = work_folder(job)
    try:
        _attempt(job, folder)
    except leases.Lost as lost:
        logger.warning("Lost: %s; nothing of it was saved.", lost)


def _attempt(job: Job, folder: Path) -> None:
    pulse = Pulse(job)
    out = folder / "out"
    try:
        with pulse:
            result = _compute(job, folder, out, pulse)
        pulse.check()
        kind = kinds.get(job.kind)
        leases.succeed(job, lambda locked: kind.commit(locked, result, out))
    except leases.Cancelled:
        leases.cancelled(job)
    except StandDown:
        leases.stand_down(job)
    except InputError as error:
        leases.fail(job, Job.FailureKind.INPUT, error.as_dict())
    except Failed as failed:
        if failed.kind == Job.FailureKind.INFRASTRUCTURE:
            leases.interrupt(job, failed.failure)
        else:
            leases.fail(job, failed.kind, failed.failure)
    except leases.Lost:
        raise
    except Exception as error:
        logger.exception("Job %s failed.", job.pk)
        if _is_of_the_infrastructure(error):
            leases.interrupt(job, _infrastructure(job, error).failure)
            return
        leases.renew(job, [("log", {"text": traceback.format_exc()})])
        leases.fail(
            job, Job.FailureKind.CODE, _fault(job, f"{type(error).__name__}: {error}").failure
        )
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _compute(job: Job, folder: Path, out: Path, pulse: Pulse) -> dict[str, Any]:
    """Prepare, run the child to its end, and return its result.

    Raises what `Pulse.check` raises, InputError, and Failed.
    """
    children.end_leftover(folder)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    spec = kinds.get(job.kind).prepare(job)
    pulse.check()
    path = folder / "spec.json"
    path.write_text(
        json.dumps(
            {"kind": job.kind, "params": spec.params, "inputs": spec.inputs, "out": str(out)}
        )
    )
    # Hours may pass until the commit: nobody should hold a connection open, or trust it, that long.
    connections.close_all()
    child = children.Child(path, folder / "stderr.log", pulse.hear)
    try:
        children.remember(folder, child.pid)
        while not child.ended(0.1):
            pulse.check()
    except BaseException:
        child.stop()
        raise
    finally:
        status = child.close()
    if status == 0:
        return children.parse((out / "result.json").read_text())
    raise _reason(job, status, child, pulse)


def _reason(job: Job, status: int, child: children.Child, pulse: Pulse) -> Exception:
    """Whose failure the end of the child is."""
    error = pulse.error
    if status == INPUT_ERROR_EXIT and error:
        return InputError(error["code"], error["where"], error["what"], error["remedy"])
    if status < 0 or status == 128 + signal.SIGTERM:
        number = -status if status < 0 else signal.SIGTERM
        name = signal.Signals(number).name
        why = " The system kills what uses too much memory." if number == signal.SIGKILL else ""
        return Failed(
            Job.FailureKind.INFRASTRUCTURE,
            f"signal.{name}",
            job.title,
            f"The computation was ended from outside by {name}.{why}",
            "Look at the machine's memory and its log, then start the job again.",
        )
    told = error.get("traceback") if error else None
    pulse.hear({"kind": "log", "data": {"text": told or child.tail()}})
    pulse.stop()
    what = (error or {}).get("what") or f"The computation ended with status {status}."
    return _fault(job, what)


def _is_of_the_infrastructure(error: Exception) -> bool:
    if isinstance(error, OSError):
        return isinstance(error, ConnectionError) or error.errno in _MACHINE_ERRORS
    return isinstance(error, (OperationalError, InterfaceError, MemoryError))


def _infrastructure(job: Job, error: Exception) -> Failed:
    return Failed(
        Job.FailureKind.INFRASTRUCTURE,
        "infrastructure",
        job.title,
        f"Database, disk or network failed: {error}",
        "Look at the worker's log and the free space on its disk, then start the job again.",
    )


def _fault(job: Job, what: str) -> Failed:
    return Failed(
        Job.FailureKind.CODE,
        "code",
        job.title,
        what,
        f"This is a fault of the program. Report it with the log of job {job.pk}.",
    )
