from __future__ import annotations

from collections.abc import Callable

import pytest

from backend.accounts.permissions import Role
from backend.jobs import kinds
from backend.jobs.models import Job
from backend.jobs.services import start_job
from tests.backend.jobs import toy


@pytest.fixture(autouse=True)
def toy_kind(monkeypatch) -> None:
    monkeypatch.setattr(kinds, "_KINDS", dict(kinds._KINDS))
    toy.register()


@pytest.fixture
def admin(make_user):
    return make_user(Role.ADMIN)


@pytest.fixture
def start_toy(study, admin, object_store) -> Callable[..., Job]:
    """`start_toy(user=admin, **params) -> Job`, queued."""

    def start(user=None, **params) -> Job:
        return start_job(user=user or admin, kind="toy", study=study, params=params)

    return start


@pytest.fixture
def toy_worker(start_worker) -> Callable:
    """`toy_worker() -> Worker` that knows the toy kind."""
    return lambda: start_worker("tests.backend.jobs.toy_worker", **toy.ENVIRONMENT)
