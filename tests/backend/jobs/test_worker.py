"""Jobs on the real broker, in a real worker and a real child process."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from django.db import connection

from backend.accounts.models import AuditEvent
from backend.jobs.models import Artifact, Job
from backend.jobs.services import cancel_job, local, work_folder

Status = Job.Status


def _until(condition, seconds: float = 20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("It did not happen in time.")


def _counting(job: Job) -> int:
    """Waits until the job's child counts; its process number."""
    folder = work_folder(job)
    _until(lambda: (folder / "reached").exists())
    return int((folder / "pid").read_text())


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_job_runs_is_committed_and_leaves_its_lineage(start_toy, toy_worker, finish, admin):
    toy_worker()
    job = finish(start_toy(steps=3))
    assert job.status == Status.SUCCEEDED
    assert (job.progress, job.attempt, job.lease) == (1.0, 1, None)
    assert job.result["steps"] == 3
    artifact = Artifact.objects.get(pk=job.result["artifact"])
    assert artifact.job == job
    assert local(artifact).read_text() == f"3 steps of {job.pk}"
    events = list(job.events.values_list("seq", "kind", "data"))
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    statuses = [data["status"] for _, kind, data in events if kind == "status"]
    assert statuses == ["queued", "running", "succeeded"]
    assert [data["value"] for _, kind, data in events if kind == "metric"] == [1, 2, 3]
    assert AuditEvent.objects.filter(subject=f"job:{job.pk}", action="job.succeeded").exists()
    assert not (job_folder(job)).exists()


def job_folder(job: Job) -> Path:
    from django.conf import settings

    return settings.VAR / "work" / str(job.pk)


def test_the_child_gets_no_credentials(start_toy, toy_worker, finish):
    toy_worker()
    names = finish(start_toy()).result["environment"]
    assert "PATH" in names
    secret = {"DATABASE_URL", "BROKER_URL", "SECRET_KEY", "OBJECT_STORE", "DJANGO_SETTINGS_MODULE"}
    assert not secret & set(names)


def test_figures_and_text_that_json_has_no_word_for_do_not_stop_a_job(
    start_toy, toy_worker, finish
):
    toy_worker()
    job = finish(start_toy(fault="nan"))
    assert job.status == Status.SUCCEEDED
    assert job.events.filter(kind="metric", data__name="loss", data__value=None).exists()
    assert job.events.filter(kind="log", data__text="a  in the log").exists()


@pytest.mark.parametrize("fault", ["input", "prepare"])
def test_bad_input_fails_with_a_remedy_and_is_not_tried_again(fault, start_toy, toy_worker, finish):
    toy_worker()
    job = finish(start_toy(fault=fault))
    assert (job.status, job.failure_kind, job.attempt) == (Status.FAILED, "input", 1)
    assert job.failure["where"] in ("toy.csv row 3", "the toy")
    assert job.failure["remedy"] in ("Correct the count.", "Buy another.")


@pytest.mark.parametrize(
    ("fault", "told"),
    [("code", "honest mistake"), ("exit", "last words"), ("commit", "the rows do not fit")],
)
def test_a_fault_of_the_program_says_so_and_keeps_the_trace(
    fault, told, start_toy, toy_worker, finish
):
    toy_worker()
    job = finish(start_toy(fault=fault))
    assert (job.status, job.failure_kind, job.attempt) == (Status.FAILED, "code", 1)
    assert str(job.pk) in job.failure["remedy"]
    assert any(
        told in text for text in job.events.filter(kind="log").values_list("data__text", flat=True)
    )
    assert not Artifact.objects.exists()


def test_a_child_killed_by_the_system_is_tried_again(start_toy, toy_worker, finish):
    toy_worker()
    job = finish(start_toy(fault="kill once"))
    assert (job.status, job.attempt) == (Status.SUCCEEDED, 2)


def test_a_child_that_is_always_killed_fails_by_name_after_three_attempts(
    start_toy, toy_worker, finish
):
    toy_worker()
    job = finish(start_toy(fault="kill"))
    assert (job.status, job.failure_kind, job.attempt) == (Status.FAILED, "infrastructure", 3)
    assert job.failure["code"] == "signal.SIGKILL"
    assert "memory" in job.failure["what"]


def test_cancel_stops_a_child_that_ignores_the_signal_and_its_children_within_5_s(
    start_toy, toy_worker, finish, admin
):
    toy_worker()
    job = start_toy(steps=1000, seconds=0.1, fault="stubborn")
    child = _counting(job)
    grandchild = int((work_folder(job) / "grandchild").read_text())
    started = time.monotonic()
    job = cancel_job(user=admin, job=job)
    assert job.status == Status.CANCELLING
    _until(lambda: not _runs(child) and not _runs(grandchild), 5)
    assert time.monotonic() - started < 5
    job = finish(job, 2)
    assert job.status == Status.CANCELLED
    assert int((work_folder(job) / "reached").read_text()) > 0, "what was reached is kept"


def test_a_killed_worker_takes_its_child_along_and_the_job_resumes_within_20_s(
    start_toy, toy_worker, finish
):
    worker = toy_worker()
    job = start_toy(steps=30, seconds=0.1)
    child = _counting(job)
    worker.kill()
    _until(lambda: not _runs(child), 2)
    killed = time.monotonic()
    toy_worker()
    job = finish(job, 30)
    assert job.status == Status.SUCCEEDED
    assert job.attempt == 2
    assert job.result["resumed_from"] > 0
    resumed = time.monotonic() - killed - (30 - job.result["resumed_from"]) * 0.1
    assert resumed < 20


def test_cancel_works_when_the_worker_is_dead(start_toy, toy_worker, finish, admin):
    worker = toy_worker()
    job = start_toy(steps=1000, seconds=0.1)
    child = _counting(job)
    worker.kill()
    started = time.monotonic()
    cancel_job(user=admin, job=job)
    job = finish(job, 10)
    assert job.status == Status.CANCELLED
    assert time.monotonic() - started < 6
    assert not _runs(child)


def test_a_worker_that_is_stopped_hands_its_job_over_and_the_attempt_does_not_count(
    start_toy, toy_worker, finish
):
    worker = toy_worker()
    job = start_toy(steps=20, seconds=0.1)
    child = _counting(job)
    worker.stop()
    assert not _runs(child)
    job.refresh_from_db()
    assert (job.status, job.attempt, job.lease) == (Status.QUEUED, 0, None)
    toy_worker()
    job = finish(job)
    assert (job.status, job.attempt) == (Status.SUCCEEDED, 1)
    assert job.result["resumed_from"] > 0


def test_a_stale_attempt_is_stopped_and_saves_nothing(start_toy, toy_worker, finish):
    toy_worker()
    job = start_toy(steps=1000, seconds=0.1)
    child = _counting(job)
    Job.objects.filter(pk=job.pk).update(lease=None, status=Status.FAILED, failure_kind="code")
    _until(lambda: not _runs(child), 7)
    time.sleep(1.2)
    job.refresh_from_db()
    assert (job.status, job.result) == (Status.FAILED, {})


def test_one_worker_runs_one_job_at_a_time_in_order(start_toy, toy_worker, finish):
    first, second = start_toy(steps=3, seconds=0.1), start_toy(steps=2)
    toy_worker()
    first, second = finish(first), finish(second)
    assert first.finished_at < second.started_at


def test_the_child_runs_in_a_process_group_of_its_own(start_toy, toy_worker, finish, admin):
    toy_worker()
    job = start_toy(steps=100, seconds=0.1)
    child = _counting(job)
    assert os.getpgid(child) == child
    cancel_job(user=admin, job=job)
    assert finish(job).status == Status.CANCELLED


def test_a_job_outlives_connections_that_the_database_drops(start_toy, toy_worker, finish):
    toy_worker()
    job = start_toy(steps=30, seconds=0.1)
    _counting(job)
    dropped = 0
    for _ in range(3):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            dropped += cursor.rowcount
        time.sleep(0.7)
    assert dropped > 0
    job = finish(job)
    assert (job.status, job.attempt) == (Status.SUCCEEDED, 1)
    after = start_toy()
    assert finish(after).status == Status.SUCCEEDED, "the worker takes up the next one"


def test_the_list_shows_a_job_whose_kind_is_gone(start_toy, admin, client, study):
    Job.objects.create(kind="of no app", title="old", queue="cpu", study=study, created_by=admin)
    client.force_login(admin)
    assert client.get("/api/v1/jobs/").json()["count"] == 1
