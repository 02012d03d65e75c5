"""Every test that touches data runs on a real PostgreSQL, and on the real broker and worker."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("DJANGO_SETTINGS_MODULE") != "backend.config.settings.test":
        pytest.exit("Tests run on backend.config.settings.test only: unset DJANGO_SETTINGS_MODULE.")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last of the test runs that share the server removes what was left and stops it."""
    from django.conf import settings

    if os.environ.get("DATABASE_URL") or "PYTEST_XDIST_WORKER" in os.environ:
        return
    from backend.config import postgres

    with contextlib.suppress(BlockingIOError):
        fcntl.flock(settings.TEST_RUN_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with psycopg.connect(postgres.ensure_running(settings.VAR), autocommit=True) as server:
            left = "SELECT datname FROM pg_database WHERE datname LIKE 'test\\_past\\_%'"
            for (name,) in server.execute(left).fetchall():
                server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        postgres.stop(settings.VAR)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup) -> Iterator[None]:
    yield
    if actors := sys.modules.get("backend.jobs.actors"):
        actors.broker.close()


# --- rows ---------------------------------------------------------------------------------------


@pytest.fixture
def make_study(db) -> Callable:
    """`make_study(**fields) -> Study`, with a slug of its own unless one is given."""
    from backend.studies.models import Study

    numbers = itertools.count(1)

    def make(**fields):
        slug = fields.setdefault("slug", f"study-{next(numbers)}")
        return Study.objects.create(**{"name": slug.capitalize(), **fields})

    return make


@pytest.fixture
def study(make_study):
    return make_study(slug="study", name="A study")


@pytest.fixture
def make_user(db, request) -> Callable:
    """`make_user(role=None, study=None, **fields) -> User`: with a role in `study`, which is the
    `study` fixture unless given; without a role a stranger to every study."""
    from django.contrib.auth import get_user_model

    from backend.studies.models import Membership

    numbers = itertools.count(1)

    def make(role=None, study=None, **fields):
        username = fields.pop("username", f"{role or 'stranger'}-{next(numbers)}")
        password = fields.pop("password", "password of tests")
        user = get_user_model().objects.create_user(username, password=password, **fields)
        if role is not None:
            place = study or request.getfixturevalue("study")
            Membership.objects.create(user=user, study=place, role=role)
        return user

    return make


@pytest.fixture
def object_store(settings, tmp_path) -> Path:
    """An object store, and a data folder, of this test alone."""
    settings.VAR = tmp_path / "var"
    settings.OBJECT_STORE = str(tmp_path / "store")
    settings.VAR.mkdir()
    return tmp_path / "store"


# --- processes ----------------------------------------------------------------------------------


class Worker:
    """A Dramatiq worker as the supervisor starts it, for both queues, one job at a time."""

    def __init__(self, module: str, environment: dict[str, str], log: Path) -> None:
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dramatiq", module, "-p", "1", "-t", "1",
                 "--worker-shutdown-timeout", "15000"],
                cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._log = log

    def stop(self) -> None:
        """As the supervisor stops it."""
        self.process.terminate()
        self.process.wait(20)

    def kill(self) -> None:
        """As the system kills what uses too much memory: nothing gets to clean up."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")


@pytest.fixture
def start_worker(transactional_db, object_store, settings) -> Iterator[Callable]:
    """`start_worker(module="backend.config.worker", **environment) -> Worker` on the test's own
    database, object store and data folder."""
    started: list[Worker] = []

    def start(module: str = "backend.config.worker", **environment: str) -> Worker:
        environment = process_environment() | environment
        log = settings.VAR / f"worker-{len(started)}.log"
        worker = Worker(module, environment, log)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def finish() -> Callable:
    """`finish(job, seconds=60) -> Job`: wait for the end of a job, reconciling meanwhile."""
    from backend.jobs.models import Job
    from backend.jobs.recovery import reconcile

    def wait(job: Job, seconds: float = 60) -> Job:
        deadline, due = time.monotonic() + seconds, 0.0
        while time.monotonic() < deadline:
            job.refresh_from_db()
            if job.status not in Job.ACTIVE:
                return job
            if time.monotonic() >= due:
                reconcile()
                due = time.monotonic() + 1
            time.sleep(0.1)
        said = list(job.events.values_list("kind", "data"))
        raise AssertionError(f"{job} is still {job.status} after {seconds} s: {said}")

    return wait


def process_environment() -> dict[str, str]:
    """The environment of a process that works on this test's database, store and data folder."""
    from urllib.parse import quote

    from django.conf import settings
    from django.db import connection

    found = connection.settings_dict
    credentials = quote(found["USER"]) + (
        f":{quote(found['PASSWORD'])}" if found["PASSWORD"] else ""
    )
    host = quote(found["HOST"], safe="") + (f":{found['PORT']}" if found["PORT"] else "")
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "backend.config.settings.test",
        "DATABASE_URL": f"postgresql://{credentials}@{host}/{found['NAME']}",
        "PAST_VAR": str(settings.VAR),
        "OBJECT_STORE": settings.OBJECT_STORE,
        "dramatiq_queue_prefetch": "1",
    }
