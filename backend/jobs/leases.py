"""One attempt's right to work on a job, and every change of status that an attempt makes.

Whoever takes the lease runs the attempt and renews it twice a second. All its writes go through
`held`, which locks the row and looks for the lease: an attempt that lost it changes nothing.
Times are the database's, so that clocks of several machines need not agree.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models.functions import Now

from backend.accounts.services import record
from backend.jobs import events
from backend.jobs.broker import ring
from backend.jobs.models import Job

DURATION = timedelta(seconds=12)
MAX_ATTEMPTS = 3

Status = Job.Status


class Lost(Exception):
    """The job belongs to another attempt, or to nobody."""


class Cancelled(Exception):
    """Somebody asked for the job to stop."""


@transaction.atomic
def take(job_id: int) -> Job | None:
    """The job with a lease of its own, or None where there is nothing to do: it is unknown,
    finished, or another attempt's."""
    job = Job.objects.select_for_update().filter(pk=job_id, status=Status.QUEUED).first()
    if job is None:
        return None
    job.lease = uuid.uuid4()
    job.status = Status.RUNNING
    job.attempt += 1
    job.stage, job.progress = "", 0.0
    job.started_at = job.heartbeat_at = Now()
    job.lease_expires_at = Now() + DURATION
    job.save()
    events.append(job, events.status(job))
    job.refresh_from_db()
    return job


@contextmanager
def held(job: Job) -> Iterator[Job]:
    """A transaction in which the row is locked and the lease is known to be ours.

    Raises Lost when it is not.
    """
    with transaction.atomic():
        locked = Job.objects.select_for_update(of=("self",)).select_related("study", "created_by")
        ours = locked.filter(pk=job.pk, lease=job.lease).first()
        if ours is None:
            raise Lost(f"job {job.pk}, attempt {job.attempt}")
        yield ours


def renew(job: Job, entries: list[events.Entry]) -> str:
    """Prolong the lease, save what the attempt said since, and return the job's status."""
    with held(job) as ours:
        for kind, data in entries:
            if kind == "stage":
                ours.stage, ours.progress = str(data.get("name", ""))[:120], 0.0
            elif kind == "progress":
                ours.progress = min(max(float(data.get("progress", 0.0)), 0.0), 1.0)
        ours.heartbeat_at = Now()
        ours.lease_expires_at = Now() + DURATION
        ours.save(update_fields=["stage", "progress", "heartbeat_at", "lease_expires_at"])
        events.append(ours, *entries)
        return ours.status


def succeed(job: Job, commit: Callable[[Job], dict[str, Any]]) -> None:
    """Run `commit` and close the job, both or neither.

    Raises Lost or Cancelled, in which case `commit` was not run, and whatever `commit` raises.
    """
    with held(job) as ours:
        if ours.status == Status.CANCELLING:
            raise Cancelled
        ours.result = commit(ours)
        ours.progress = 1.0
        close(ours, Status.SUCCEEDED)


def fail(job: Job, kind: str, failure: dict[str, Any]) -> None:
    with held(job) as ours:
        ours.failure_kind, ours.failure = kind, failure
        close(ours, Status.FAILED)


def cancelled(job: Job) -> None:
    with held(job) as ours:
        close(ours, Status.CANCELLED)


def interrupt(job: Job, failure: dict[str, Any]) -> None:
    """The attempt ended through no fault of the job: queue it again, or give up."""
    with held(job) as ours:
        give_back(ours, failure)


def stand_down(job: Job) -> None:
    """The worker was asked to stop: queue the job again; the attempt does not count."""
    with held(job) as ours:
        ours.attempt -= 1
        _queue_again(ours, "The worker is being stopped.")


def give_back(job: Job, failure: dict[str, Any]) -> None:
    """`interrupt` for a caller that has the row locked."""
    if job.status == Status.CANCELLING:
        close(job, Status.CANCELLED)
    elif job.attempt < MAX_ATTEMPTS:
        _queue_again(job, failure["what"])
    else:
        job.failure_kind, job.failure = Job.FailureKind.INFRASTRUCTURE, failure
        close(job, Status.FAILED)


def close(job: Job, status: str) -> None:
    """End a locked job for good."""
    job.status = status
    job.lease = job.lease_expires_at = None
    job.finished_at = Now()
    job.save()
    told = {"failure": job.failure} if status == Status.FAILED else {}
    events.append(job, events.status(job, **told))
    record(
        actor=None, action=f"job.{status}", subject=job, study=job.study, detail={"kind": job.kind}
    )


def _queue_again(job: Job, reason: str) -> None:
    if job.status == Status.CANCELLING:
        close(job, Status.CANCELLED)
        return
    job.status = Status.QUEUED
    job.lease = job.lease_expires_at = None
    job.heartbeat_at = Now()
    job.save()
    events.append(job, events.status(job, reason=reason))
    ring(job)
