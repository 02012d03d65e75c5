from __future__ import annotations

import pytest
from django.core.exceptions import PermissionDenied
from django.db import connections, transaction
from pydantic import ValidationError

from backend.accounts.models import AuditEvent
from backend.accounts.permissions import PERMISSIONS, Action, Role
from backend.jobs import leases
from backend.jobs.models import Artifact, Job
from backend.jobs.services import cancel_job, local, start_job, store_artifact
from ml.errors import InputError

Status = Job.Status


@pytest.mark.parametrize("role", [*Role, None])
def test_who_may_start_a_kind_stands_in_the_permission_table(role, make_user, study, start_toy):
    user = make_user(role)
    if role in PERMISSIONS[Action.MODEL_TRAIN]:
        assert start_toy(user=user).created_by == user
    else:
        with pytest.raises(PermissionDenied):
            start_toy(user=user)
        assert not Job.objects.exists()


@pytest.mark.parametrize("staff", [True, False])
def test_without_a_study_only_staff_may_start_a_job(staff, make_user, object_store):
    user = make_user(is_staff=staff)
    if staff:
        assert start_job(user=user, kind="toy", study=None, params={}).study is None
    else:
        with pytest.raises(PermissionDenied):
            start_job(user=user, kind="toy", study=None, params={})


def test_starting_validates_queues_and_is_audited(start_toy, admin):
    job = start_toy(steps=4)
    assert (job.status, job.queue, job.title) == (Status.QUEUED, "gpu", "Count to 4")
    assert job.parameters == {"steps": 4, "seconds": 0.0, "fault": ""}
    event = AuditEvent.objects.get(action="job.start")
    assert (event.actor, event.subject, event.study_id) == (admin, f"job:{job.pk}", job.study_id)
    with pytest.raises(ValidationError):
        start_toy(steps=0)


def test_the_bell_rings_only_when_the_transaction_commits(
    start_toy, django_capture_on_commit_callbacks
):
    with (
        django_capture_on_commit_callbacks() as callbacks,
        pytest.raises(RuntimeError),
        transaction.atomic(),
    ):
        start_toy()
        raise RuntimeError
    assert callbacks == []
    with django_capture_on_commit_callbacks() as callbacks:
        start_toy()
    assert len(callbacks) == 1


@pytest.mark.parametrize("role", [*Role, None])
def test_admins_of_the_study_may_cancel(role, make_user, start_toy):
    job = start_toy()
    user = make_user(role)
    if role in PERMISSIONS[Action.JOB_CANCEL]:
        assert cancel_job(user=user, job=job).status == Status.CANCELLED
    else:
        with pytest.raises(PermissionDenied):
            cancel_job(user=user, job=job)
        job.refresh_from_db()
        assert job.status == Status.QUEUED


def test_whoever_started_a_job_may_cancel_it_as_long_as_the_role_lasts(
    make_user, study, start_toy, monkeypatch
):
    monkeypatch.setitem(PERMISSIONS, Action.MODEL_TRAIN, frozenset({Role.INVESTIGATOR}))
    user = make_user(Role.INVESTIGATOR)
    first, second = start_toy(user=user), start_toy(user=user)
    assert cancel_job(user=user, job=first).status == Status.CANCELLED
    user.memberships.all().delete()
    with pytest.raises(PermissionDenied):
        cancel_job(user=user, job=second)


def test_cancelling_what_is_over_changes_nothing(start_toy, admin):
    job = start_toy()
    attempt = leases.take(job.pk)
    leases.succeed(attempt, lambda job: {"done": True})
    n_events = job.events.count()
    job = cancel_job(user=admin, job=job)
    assert (job.status, job.events.count()) == (Status.SUCCEEDED, n_events)
    assert not AuditEvent.objects.filter(action="job.cancel").exists()


@pytest.mark.django_db(transaction=True)
def test_a_job_that_is_being_saved_cannot_be_cancelled_and_says_so(start_toy, admin):
    """The other connection stands for a worker inside its commit."""
    job = start_toy()
    other = connections["default"].copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1 FROM jobs_job WHERE id = %s FOR UPDATE", [job.pk])
            with pytest.raises(InputError) as refused:
                cancel_job(user=admin, job=job)
            cursor.execute("ROLLBACK")
    finally:
        other.close()
    assert refused.value.code == "job.saving"
    assert cancel_job(user=admin, job=job).status == Status.CANCELLED


def test_the_same_content_is_the_same_artifact(start_toy, tmp_path):
    job = start_toy()
    folder = tmp_path / "table.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_text("{}")
    slide = tmp_path / "a.tif"
    slide.write_bytes(b"tiles")
    source = store_artifact(job=job, path=slide, kind=Artifact.Kind.SLIDE)
    table = store_artifact(job=job, path=folder, kind="cell_table", inputs=[source])
    again = store_artifact(job=start_toy(), path=slide, kind=Artifact.Kind.SLIDE)
    assert again == source
    assert again.job == job
    assert list(table.inputs.all()) == [source]
    assert (local(table) / "zarr.json").read_text() == "{}"
    assert local(source).suffix == ".tif"
