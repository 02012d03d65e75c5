"""Reads of jobs, from what the user may see."""

from __future__ import annotations

from django.db.models import Count, F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce, Now
from django.http import Http404

from backend.accounts.models import User
from backend.accounts.permissions import Action, allows
from backend.jobs import kinds
from backend.jobs.models import Job, JobEvent
from backend.studies.models import Study
from backend.studies.selectors import role_in

EVENTS_PER_ANSWER = 1000


def jobs_for(
    user: User, *, study: Study | None = None, statuses: list[str] | None = None
) -> QuerySet[Job]:
    """The user's jobs, newest first, each with `role`, `queue_position`, `last_seq`, `stage_since`
    and `now` (the database's, to count from)."""
    ahead = (
        Job.objects.filter(
            status=Job.Status.QUEUED, queue=OuterRef("queue"), pk__lte=OuterRef("pk")
        )
        .order_by()
        .values("queue")
        .annotate(n=Count("pk"))
        .values("n")
    )
    events = JobEvent.objects.filter(job=OuterRef("pk")).order_by("-seq")
    jobs = Job.objects.visible_to(user).select_related("study", "created_by")
    if study is not None:
        jobs = jobs.filter(study=study)
    if statuses:
        jobs = jobs.filter(status__in=statuses)
    return jobs.annotate(
        role=role_in(user, "study"),
        n_ahead=Subquery(ahead),
        last_seq=Coalesce(Subquery(events.values("seq")[:1]), 0),
        stage_since=Coalesce(
            Subquery(events.filter(kind=JobEvent.Kind.STAGE).values("at")[:1]), F("started_at")
        ),
        now=Now(),
    )


def job_for(user: User, number: int) -> Job:
    """One job.

    Raises Http404 when the user may not see it.
    """
    job = jobs_for(user).filter(pk=number).first()
    if job is None or (job.study and not allows(job.role, Action.JOB_VIEW)):
        raise Http404("No such job.")
    return job


def queue_position(job: Job) -> int | None:
    """1 for the next one to start; None for a job that does not wait."""
    return job.n_ahead if job.status == Job.Status.QUEUED else None


def eta_seconds(job: Job) -> float | None:
    """Seconds left in the current stage at its pace so far; None until 2 % of it are done."""
    if job.status != Job.Status.RUNNING or job.progress < 0.02 or job.stage_since is None:
        return None
    elapsed = (job.now - max(job.stage_since, job.started_at)).total_seconds()
    return elapsed * (1 - job.progress) / job.progress


def events_after(job: Job, seq: int) -> list[JobEvent]:
    """The next events after `seq`, at most 1,000; ask again from the last one for more."""
    return list(job.events.filter(seq__gt=seq).order_by("seq")[:EVENTS_PER_ANSWER])


def permits_cancel(user: User, job: Job) -> bool:
    """Admins of the study, and whoever started the job as long as they may start its kind."""
    if job.study is None:
        return user.is_superuser or job.created_by_id == user.pk
    role = job.role if hasattr(job, "role") else job.study.role_of(user)
    if allows(role, Action.JOB_CANCEL):
        return True
    action = kinds.action_of(job.kind)
    return action is not None and job.created_by_id == user.pk and allows(role, action)


def may_cancel(user: User, job: Job) -> bool:
    """Whether the user would be let, and there is something left to cancel."""
    return job.status in (Job.Status.QUEUED, Job.Status.RUNNING) and permits_cancel(user, job)
