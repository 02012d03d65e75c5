"""The supervisor with everything it runs: web, workers, reconciler."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from backend.jobs.models import Job
from tests.conftest import process_environment
from tests.instance import free_port

SUPERVISOR = [sys.executable, "-m", "backend.config.supervisor"]


def _until(condition, seconds: float = 25):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("It did not happen in time.")


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def _family(pid: int) -> list[int]:
    direct = _children(pid)
    return direct + [grandchild for child in direct for grandchild in _family(child)]


def _alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if _state(pid) not in ("", "Z")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _named(pids: list[int], words: str) -> list[int]:
    found = []
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if words in command:
            found.append(pid)
    return found


class Running:
    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.port = free_port()
        self.process = subprocess.Popen([*SUPERVISOR, "--port", str(self.port)], env=environment)

    def answers(self) -> bool:
        try:
            address = f"http://127.0.0.1:{self.port}/accounts/login/"
            return urllib.request.urlopen(address, timeout=5).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def family(self, words: str = "") -> list[int]:
        return _named(_family(self.process.pid), words)


@pytest.fixture
def running(transactional_db, object_store):
    instance = Running(process_environment())
    family: list[int] = []
    try:
        _until(instance.answers)
        family = instance.family()
        yield instance
    finally:
        family += instance.family()
        instance.process.kill()
        instance.process.wait()
        _until(lambda: not _alive(family))


def test_it_restarts_what_dies_rings_for_what_waits_and_stops_cleanly(running):
    def worker_children() -> list[int]:
        masters = running.family("--queues gpu")
        return [child for master in masters for child in _children(master)]

    # Nobody rang for this job, and no worker knows its kind: that it fails shows that the
    # reconciler found it and a worker looked at it.
    waiting = Job.objects.create(kind="of no app", title="lost", queue="gpu")
    Job.objects.filter(pk=waiting.pk).update(created_at="2020-01-01T00:00:00Z")

    _until(worker_children)
    old = set(running.family("--queues gpu"))
    for pid in worker_children():
        os.kill(pid, signal.SIGKILL)
    _until(lambda: set(running.family("--queues gpu")) - old)

    (web,) = [p for p in running.family("gunicorn") if p in _children(running.process.pid)]
    os.kill(web, signal.SIGKILL)
    _until(lambda: web not in running.family("gunicorn"))
    _until(running.answers)

    _until(lambda: Job.objects.get(pk=waiting.pk).status == "failed")

    refused = subprocess.run(SUPERVISOR, env=running.environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "runs already" in refused.stderr

    family = running.family()
    stopped = subprocess.run([*SUPERVISOR, "--stop"], env=running.environment, timeout=30)
    assert stopped.returncode == 0
    assert running.process.wait(1) == 0
    assert not _alive(family)


def test_everything_ends_when_the_supervisor_is_killed(running):
    # Web and two workers, each a master with children.
    family = _until(lambda: len(found := running.family()) >= 7 and found)
    running.process.kill()
    running.process.wait()
    _until(lambda: not _alive(family), 20)
