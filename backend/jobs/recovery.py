"""The reconciler: what no living attempt holds is queued again, ended, or rung for again.

The supervisor runs it every 2 s. Several may run at once: rows that another holds are skipped.
"""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Now

from backend.jobs import children, leases
from backend.jobs.broker import ring
from backend.jobs.models import Job
from backend.jobs.services import SILENCE, work_folder

Status = Job.Status

# A waiting job is rung for again after this time: brokers lose messages.
RING_AGAIN = timedelta(seconds=30)

_VANISHED = {
    "code": "worker.vanished",
    "where": "worker",
    "what": "The worker that ran this job ended or lost the database.",
    "remedy": "Look at the worker's log and the machine's memory, then start the job again.",
}


def reconcile(*, ring_again: timedelta = RING_AGAIN) -> int:
    """Put right every job that needs it; returns how many did.

    Args:
        ring_again: how long a queued job waits before its message is taken for lost; zero after a
            start, when nobody knows what the broker still holds.
    """
    abandoned = Q(status=Status.RUNNING, lease_expires_at__lt=Now()) | Q(
        status=Status.CANCELLING, heartbeat_at__lt=Now() - SILENCE
    )
    waiting = Q(status=Status.QUEUED, alive__lt=Now() - ring_again)
    found = Job.objects.annotate(alive=Coalesce(F("heartbeat_at"), F("created_at")))
    numbers = list(found.filter(abandoned | waiting).order_by("pk").values_list("pk", flat=True))
    return sum(_put_right(number, abandoned | waiting) for number in numbers)


@transaction.atomic
def _put_right(number: int, still: Q) -> bool:
    jobs = Job.objects.annotate(alive=Coalesce(F("heartbeat_at"), F("created_at")))
    locked = jobs.select_for_update(skip_locked=True, of=("self",)).select_related("study")
    job = locked.filter(still, pk=number).first()
    if job is None:
        return False
    if job.status == Status.QUEUED:
        job.heartbeat_at = Now()
        job.save(update_fields=["heartbeat_at"])
        ring(job)
        return True
    children.end_leftover(work_folder(job))
    leases.give_back(job, _VANISHED)
    return True
