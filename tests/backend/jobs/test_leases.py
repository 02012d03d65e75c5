"""The lease is the fence: without it an attempt changes nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from backend.jobs import leases
from backend.jobs.models import Job
from backend.jobs.recovery import reconcile
from backend.jobs.services import cancel_job
from backend.studies.models import Study

Status = Job.Status
LONG_AGO = timedelta(minutes=5)


def _let_expire(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(
        lease_expires_at=Now() - LONG_AGO, heartbeat_at=Now() - LONG_AGO
    )


def _write(job: Job) -> dict:
    Study.objects.filter(pk=job.study_id).update(name="written by an attempt")
    return {"by": job.attempt}


def test_a_job_is_taken_once(start_toy):
    job = start_toy()
    attempt = leases.take(job.pk)
    assert (attempt.status, attempt.attempt) == (Status.RUNNING, 1)
    assert leases.take(job.pk) is None
    assert leases.take(job.pk + 1000) is None


def test_a_stale_attempt_commits_nothing(start_toy, study):
    job = start_toy()
    stale = leases.take(job.pk)
    _let_expire(job)
    assert reconcile() == 1
    fresh = leases.take(job.pk)
    assert fresh.attempt == 2
    for change in (
        lambda: leases.succeed(stale, _write),
        lambda: leases.renew(stale, [("log", {"text": "still here"})]),
        lambda: leases.fail(stale, "code", {}),
        lambda: leases.cancelled(stale),
        lambda: leases.interrupt(stale, {"what": ""}),
        lambda: leases.stand_down(stale),
    ):
        with pytest.raises(leases.Lost):
            change()
    job.refresh_from_db()
    study.refresh_from_db()
    assert (job.status, job.lease, job.result) == (Status.RUNNING, fresh.lease, {})
    assert study.name == "A study"
    assert not job.events.filter(kind="log").exists()
    leases.succeed(fresh, _write)
    study.refresh_from_db()
    job.refresh_from_db()
    assert (job.result, study.name) == ({"by": 2}, "written by an attempt")


def test_a_commit_that_fails_leaves_nothing(start_toy, study):
    job = start_toy()
    attempt = leases.take(job.pk)

    def commit(job):
        _write(job)
        raise ValueError

    with pytest.raises(ValueError):
        leases.succeed(attempt, commit)
    study.refresh_from_db()
    job.refresh_from_db()
    assert (job.status, study.name) == (Status.RUNNING, "A study")


def test_a_cancel_before_the_commit_wins(start_toy, admin, study):
    job = start_toy()
    attempt = leases.take(job.pk)
    assert cancel_job(user=admin, job=job).status == Status.CANCELLING
    with pytest.raises(leases.Cancelled):
        leases.succeed(attempt, _write)
    leases.cancelled(attempt)
    job.refresh_from_db()
    study.refresh_from_db()
    assert (job.status, study.name) == (Status.CANCELLED, "A study")
    assert job.finished_at is not None


def test_renewing_saves_stage_progress_and_prolongs_the_lease(start_toy):
    attempt = leases.take(start_toy().pk)
    Job.objects.filter(pk=attempt.pk).update(lease_expires_at=Now())
    said = [("progress", {"progress": 0.9}), ("stage", {"name": "Scoring"}),
            ("progress", {"progress": 7})]  # fmt: skip
    assert leases.renew(attempt, said) == Status.RUNNING
    job = Job.objects.get(pk=attempt.pk)
    assert (job.stage, job.progress) == ("Scoring", 1.0)
    assert (job.lease_expires_at - job.heartbeat_at) == leases.DURATION
    assert [e.seq for e in job.events.all()] == [1, 2, 3, 4, 5]


def test_an_expired_lease_is_queued_again_and_given_up_after_three_attempts(start_toy):
    job = start_toy()
    for attempt in (1, 2, 3):
        assert leases.take(job.pk).attempt == attempt
        assert reconcile() == 0, "a living lease is left alone"
        _let_expire(job)
        assert reconcile() == 1
    job.refresh_from_db()
    assert (job.status, job.failure_kind) == (Status.FAILED, "infrastructure")
    assert job.failure["remedy"]
    assert reconcile() == 0


def test_a_cancelling_job_without_a_sign_of_life_is_cancelled(start_toy, admin):
    job = start_toy()
    leases.take(job.pk)
    cancel_job(user=admin, job=job)
    assert reconcile() == 0
    Job.objects.filter(pk=job.pk).update(heartbeat_at=Now() - LONG_AGO)
    assert reconcile() == 1
    job.refresh_from_db()
    assert (job.status, job.lease) == (Status.CANCELLED, None)


def test_cancel_ends_a_silent_attempt_at_once(start_toy, admin):
    job = start_toy()
    attempt = leases.take(job.pk)
    Job.objects.filter(pk=job.pk).update(heartbeat_at=Now() - LONG_AGO)
    assert cancel_job(user=admin, job=job).status == Status.CANCELLED
    with pytest.raises(leases.Lost):
        leases.succeed(attempt, _write)


def test_a_lost_message_is_rung_again_but_not_at_every_round(
    start_toy, django_capture_on_commit_callbacks
):
    job = start_toy()
    assert reconcile() == 0
    Job.objects.filter(pk=job.pk).update(created_at=Now() - LONG_AGO)
    with django_capture_on_commit_callbacks() as callbacks:
        assert reconcile() == 1
        assert reconcile() == 0
    assert len(callbacks) == 1
    job.refresh_from_db()
    assert job.status == Status.QUEUED


def test_after_a_start_every_waiting_job_is_rung_for(start_toy, django_capture_on_commit_callbacks):
    start_toy(), start_toy()
    Job.objects.update(created_at=Now() - timedelta(seconds=1))
    with django_capture_on_commit_callbacks() as callbacks:
        assert reconcile(ring_again=timedelta(0)) == 2
    assert len(callbacks) == 2
