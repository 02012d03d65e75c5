from __future__ import annotations

import pytest
from django.core.management import CommandError, call_command

from backend.accounts.models import AuditEvent, User
from backend.accounts.permissions import PERMISSIONS, Action, Role, allows
from backend.accounts.services import put_user, record


def test_the_table_names_every_action_and_admins_may_do_everything():
    assert set(PERMISSIONS) == set(Action)
    for action in Action:
        assert allows(Role.ADMIN, action)
        assert not allows(None, action)


@pytest.mark.parametrize("action", Action)
def test_roles_only_add_to_each_other(action):
    """Whatever a member may do an investigator may, and whatever they may an admin may."""
    may = [allows(role, action) for role in (Role.MEMBER, Role.INVESTIGATOR, Role.ADMIN)]
    assert may == sorted(may)


def test_unknown_roles_are_refused():
    with pytest.raises(ValueError):
        allows("owner", Action.STUDY_VIEW)


def test_the_audit_trail_tells_who_did_what_to_what(make_user, study):
    user = make_user()
    record(actor=user, action="slide.rename", subject=study, study=study, detail={"to": "B"})
    record(actor=None, action="sweep", subject="artifact:1")
    rename, sweep = AuditEvent.objects.order_by("id")
    assert (rename.actor, rename.subject, rename.study_id) == (user, f"study:{study.pk}", study.pk)
    assert (sweep.actor, sweep.study_id, sweep.detail) == (None, None, {})
    study.delete()
    assert AuditEvent.objects.count() == 2, "the trail outlives what it tells of"


def test_putting_a_user_twice_changes_the_one(db):
    put_user(username="a", password="first", full_name="Ada B")
    user = put_user(username="a", password="second", full_name="Ada Byron King", staff=True)
    assert User.objects.count() == 1
    assert user.check_password("second")
    assert (user.display_name, user.is_staff, user.is_superuser) == ("Ada Byron King", True, False)


def test_demo_users_get_their_roles_and_their_passwords_are_printed(study, capsys, client):
    call_command("create_demo_users")
    call_command("create_demo_users", study=["study"])
    assert {str(m.user): m.role for m in study.memberships.all()} == {r: r for r in Role}
    printed = capsys.readouterr().out
    for role in Role:
        assert f"password demo-{role}" in printed
        assert client.login(username=role, password=f"demo-{role}")


def test_demo_users_are_refused_where_settings_do_not_allow_them(db, settings):
    settings.DEMO_USERS = False
    with pytest.raises(CommandError):
        call_command("create_demo_users")
    settings.DEMO_USERS = True
    with pytest.raises(CommandError, match="nowhere"):
        call_command("create_demo_users", study=["nowhere"])
    assert not User.objects.exists()


def test_login_and_logout(client, make_user):
    make_user(username="ada", password="a good password")
    page = client.get("/accounts/login/")
    assert page.status_code == 200
    assert b"Research use only" in page.content
    wrong = client.post("/accounts/login/", {"username": "ada", "password": "no"})
    assert wrong.status_code == 200
    right = client.post("/accounts/login/", {"username": "ada", "password": "a good password"})
    assert (right.status_code, right.url) == (302, "/")
    assert client.get("/api/v1/me/").json()["username"] == "ada"
    assert client.get("/accounts/logout/").status_code == 405, "a link must not log anybody out"
    assert client.post("/accounts/logout/").url == "/accounts/login/"
    assert client.get("/api/v1/me/").status_code == 403


def test_login_needs_a_csrf_token(make_user):
    from django.test import Client

    make_user(username="ada", password="a good password")
    strict = Client(enforce_csrf_checks=True)
    sent = {"username": "ada", "password": "a good password"}
    assert strict.post("/accounts/login/", sent).status_code == 403


@pytest.mark.parametrize("page", ["", "accounts/user/", "accounts/auditevent/", "jobs/job/",
                                  "jobs/artifact/", "accounts/user/add/"])  # fmt: skip
def test_the_administration_opens_to_superusers_only(page, client, make_user):
    client.force_login(make_user(is_staff=True, is_superuser=True))
    assert client.get(f"/admin/{page}").status_code == 200
    client.force_login(make_user(Role.ADMIN))
    assert client.get(f"/admin/{page}").status_code == 302


def test_nobody_edits_the_trail_in_the_administration(client, make_user):
    event = record(actor=None, action="sweep", subject="artifact:1")
    client.force_login(make_user(is_staff=True, is_superuser=True))
    address = f"/admin/accounts/auditevent/{event.pk}"
    assert client.post(f"{address}/delete/", {"post": "yes"}).status_code == 403
    assert client.post(f"{address}/change/", {"action": "forged"}).status_code == 403
    assert AuditEvent.objects.get().action == "sweep"
