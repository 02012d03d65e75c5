"""Starting and cancelling jobs, and artifacts: what they make."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import OperationalError, connection, transaction
from django.db.models.functions import Now
from psycopg.errors import LockNotAvailable

from backend.accounts.models import User
from backend.accounts.services import record
from backend.jobs import events, kinds, leases
from backend.jobs.broker import ring
from backend.jobs.models import Artifact, Job
from backend.jobs.selectors import permits_cancel
from backend.studies.models import Study
from ml.errors import InputError
from ml.io.store import ObjectStore

SILENCE = timedelta(seconds=2.5)  # after which an attempt that should stop is taken for dead


@transaction.atomic
def start_job(*, user: User, kind: str, study: Study | None, params: dict[str, Any]) -> Job:
    """Queue a job; it starts when this transaction commits.

    Args:
        kind: a registered kind.
        study: the study it works in; None only for an import, which staff may start.
        params: the kind's parameters, validated here.

    Raises:
        PermissionDenied: the user may not do this.
        pydantic.ValidationError: wrong parameters.
    """
    job_kind = kinds.get(kind)
    allowed = study.allows(user, job_kind.action) if study else user.is_staff
    if not allowed:
        raise PermissionDenied(f"Your role does not include {job_kind.action}.")
    valid = job_kind.params.model_validate(params)
    job = Job.objects.create(
        study=study,
        kind=kind,
        title=job_kind.title(valid)[:200],
        parameters=valid.model_dump(mode="json"),
        queue=job_kind.queue,
        created_by=user,
    )
    events.append(job, events.status(job))
    record(
        actor=user,
        action="job.start",
        subject=job,
        study=study,
        detail={"kind": kind, "parameters": job.parameters},
    )
    ring(job)
    return job


@transaction.atomic
def cancel_job(*, user: User, job: Job) -> Job:
    """Ask a job to stop; nothing happens to one that is over.

    A running attempt sees it within half a second and ends its child process. Where no attempt
    shows a sign of life, the job is cancelled here: with the lease gone, nothing can be saved.

    Raises:
        PermissionDenied: the user may not cancel it.
        InputError: its results are being saved at this moment.
    """
    if not permits_cancel(user, job):
        raise PermissionDenied("Only an admin of the study, or who started a job, may cancel it.")
    job = _locked(job)
    if job.status not in Job.ACTIVE:
        return job
    record(actor=user, action="job.cancel", subject=job, study=job.study)
    silent = Job.objects.filter(pk=job.pk, heartbeat_at__lt=Now() - SILENCE).exists()
    if job.status == Job.Status.QUEUED or silent:
        leases.close(job, Job.Status.CANCELLED)
    elif job.status == Job.Status.RUNNING:
        job.status = Job.Status.CANCELLING
        job.save(update_fields=["status"])
        events.append(job, events.status(job))
    job.refresh_from_db()
    return job


def _locked(job: Job) -> Job:
    """The job's row, locked; an attempt that is saving its results may hold it for long."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '3s'")
            found = Job.objects.select_for_update(of=("self",)).select_related(
                "study", "created_by"
            )
            locked = found.get(pk=job.pk)
            cursor.execute("SET LOCAL lock_timeout = DEFAULT")
            return locked
    except OperationalError as error:
        if not isinstance(error.__cause__, LockNotAvailable):
            raise
        raise InputError(
            "job.saving",
            f"job {job.pk}",
            "Its results are being saved at this moment.",
            "Wait until it has ended; results that nobody wants can be ignored or deleted.",
        ) from error


def store_artifact(
    *, job: Job, path: Path, kind: Artifact.Kind | str, inputs: Iterable[Artifact] = ()
) -> Artifact:
    """Put a file or folder into the object store. The same content is the same artifact."""
    stored = _store(settings.OBJECT_STORE, settings.VAR).put(path)
    artifact, _ = Artifact.objects.get_or_create(
        sha256=stored.sha256,
        defaults={"kind": kind, "uri": stored.uri, "bytes": stored.bytes, "job": job},
    )
    artifact.inputs.add(*inputs)
    return artifact


def local(artifact: Artifact) -> Path:
    """A path under which the artifact's content can be read on this machine."""
    return _store(settings.OBJECT_STORE, settings.VAR).local(artifact.uri, artifact.sha256)


@lru_cache(maxsize=8)
def _store(place: str, var: Path) -> ObjectStore:
    """One per process: it keeps what this process reads from being evicted from the cache."""
    return ObjectStore(place, cache=var / "cache")


def work_folder(job: Job) -> Path:
    """A folder on this machine that survives the attempts of a job, for its checkpoints."""
    folder = settings.VAR / "work" / str(job.pk)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
