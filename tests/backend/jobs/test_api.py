from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from backend.accounts.permissions import PERMISSIONS, Action, Role
from backend.jobs import leases
from backend.jobs.models import Job, JobEvent
from backend.jobs.services import start_job

PEOPLE = [*Role, None, "anonymous"]


@pytest.fixture
def person(make_user, client):
    """`person(role) -> client` signed in with this role; None is a stranger to the study."""

    def sign_in(role):
        if role != "anonymous":
            client.force_login(make_user(role))
        return client

    return sign_in


def _expected(role, action: Action, allowed: int) -> int:
    if role in ("anonymous",):
        return 403
    if role is None:
        return 404
    return allowed if role in PERMISSIONS[action] else 403


@pytest.mark.parametrize("role", PEOPLE)
def test_permissions_of_every_endpoint(role, person, start_toy, study):
    job = start_toy()
    client = person(role)
    listed = client.get("/api/v1/jobs/")
    if role == "anonymous":
        assert listed.status_code == 403
    else:
        n_visible = int(role in PERMISSIONS[Action.JOB_VIEW])
        assert listed.json()["count"] == n_visible
    viewed = client.get(f"/api/v1/jobs/{job.pk}/")
    assert viewed.status_code == _expected(role, Action.JOB_VIEW, 200)
    events = client.get(f"/api/v1/jobs/{job.pk}/events/")
    assert events.status_code == _expected(role, Action.JOB_VIEW, 200)
    cancelled = client.post(f"/api/v1/jobs/{job.pk}/cancel/")
    assert cancelled.status_code == _expected(role, Action.JOB_CANCEL, 202)
    job.refresh_from_db()
    assert (job.status == "cancelled") == (cancelled.status_code == 202)


@pytest.mark.parametrize("page", ["/jobs/", "/jobs/{}/"])
def test_pages_send_the_anonymous_to_the_login(page, client, start_toy):
    answer = client.get(page.format(start_toy().pk))
    assert answer.status_code == 302
    assert answer.url.startswith("/accounts/login/?next=/jobs/")


def test_what_one_may_not_see_is_not_found_as_a_page_either(person, start_toy):
    assert person(None).get(f"/jobs/{start_toy().pk}/").status_code == 404


def test_an_import_is_seen_by_who_started_it_and_by_superusers(make_user, client, object_store):
    owner, other = make_user(is_staff=True), make_user(is_staff=True)
    job = start_job(user=owner, kind="toy", study=None, params={})
    for user, status in ((owner, 200), (other, 404), (make_user(is_superuser=True), 200)):
        client.force_login(user)
        assert client.get(f"/api/v1/jobs/{job.pk}/").status_code == status


def test_a_job_tells_all_that_the_page_shows(person, start_toy):
    first, second = start_toy(), start_toy(steps=2)
    answer = person(Role.MEMBER).get(f"/api/v1/jobs/{second.pk}/").json()
    assert answer["queue_position"] == 2
    assert answer["title"] == "Count to 2"
    assert answer["study"] == "study"
    assert answer["failure"] == {}
    assert answer["may_cancel"] is False
    leases.take(first.pk)
    assert person(Role.ADMIN).get(f"/api/v1/jobs/{second.pk}/").json()["queue_position"] == 1


def test_eta_follows_the_pace_of_the_stage(person, start_toy):
    job = leases.take(start_toy().pk)
    leases.renew(job, [("stage", {"name": "Training"}), ("progress", {"progress": 0.25})])
    Job.objects.filter(pk=job.pk).update(started_at=Now() - timedelta(minutes=10))
    JobEvent.objects.filter(job=job, kind="stage").update(at=Now() - timedelta(seconds=30))
    shown = person(Role.MEMBER).get(f"/api/v1/jobs/{job.pk}/").json()
    assert (shown["status"], shown["stage"], shown["progress"]) == ("running", "Training", 0.25)
    assert shown["eta_seconds"] == pytest.approx(90, abs=2)


def test_events_come_after_a_number_and_304_says_that_there_are_none(person, start_toy):
    job = leases.take(start_toy().pk)
    leases.renew(job, [("log", {"text": "one"}), ("metric", {"name": "loss", "value": 0.5})])
    client = person(Role.MEMBER)
    address = f"/api/v1/jobs/{job.pk}/events/"
    answer = client.get(address, {"after": 2}).json()
    assert [(e["seq"], e["kind"]) for e in answer["events"]] == [(3, "log"), (4, "metric")]
    assert answer["job"]["last_seq"] == 4
    silent = client.get(address, {"after": 4})
    assert (silent.status_code, silent.content) == (304, b"")
    leases.renew(job, [("log", {"text": "two"})])
    assert client.get(address, {"after": 4}).json()["events"][0]["data"] == {"text": "two"}
    assert client.get(address, {"after": "x"}).status_code == 400


def test_a_failure_names_whose_it_is_and_the_remedy(person, start_toy):
    job = leases.take(start_toy().pk)
    failure = {"code": "slide.no_mpp", "where": "a.tif", "what": "No mpp.", "remedy": "Give it."}
    leases.fail(job, "input", failure)
    shown = person(Role.MEMBER).get("/api/v1/jobs/").json()["results"][0]
    assert (shown["status"], shown["failure_kind"], shown["failure"]) == (
        "failed",
        "input",
        failure,
    )


def test_the_list_filters_and_needs_few_queries(person, start_toy, make_study, make_user,
                                                django_assert_max_num_queries):  # fmt: skip
    for _ in range(5):
        start_toy()
    leases.take(start_toy().pk)
    client = person(Role.ADMIN)
    with django_assert_max_num_queries(5):
        assert client.get("/api/v1/jobs/").json()["count"] == 6
    assert client.get("/api/v1/jobs/", {"status": "running"}).json()["count"] == 1
    assert client.get("/api/v1/jobs/", {"study": "other"}).json()["count"] == 0
    assert client.get("/api/v1/jobs/", {"study": "study"}).json()["count"] == 6
