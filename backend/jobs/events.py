"""The job's own account of itself, numbered from 1 without gaps."""

from __future__ import annotations

from typing import Any

from django.db.models import Max

from backend.jobs.models import Job, JobEvent

Entry = tuple[str, dict[str, Any]]


def append(job: Job, *entries: Entry) -> None:
    """Add (kind, data) entries. `job` must be locked by the caller, which keeps numbers unique."""
    last = job.events.aggregate(last=Max("seq"))["last"] or 0
    JobEvent.objects.bulk_create(
        JobEvent(job=job, seq=seq, kind=kind, data=data)
        for seq, (kind, data) in enumerate(entries, start=last + 1)
    )


def status(job: Job, **data: Any) -> Entry:
    """The entry that tells of the status the job has now."""
    return (JobEvent.Kind.STATUS, {"status": str(job.status), "attempt": job.attempt, **data})
