"""Studies: who sees which, the cohort table, and roles."""

from __future__ import annotations

import pytest
from django.core.exceptions import PermissionDenied

from backend.accounts.models import AuditEvent
from backend.accounts.permissions import PERMISSIONS, Role
from backend.studies import selectors
from backend.studies.content import StudyContent
from backend.studies.models import Membership, Study
from backend.studies.services import create_study, set_role
from ml.errors import InputError
from tests.backend.rows import add_model, add_slide, add_table


def content(slug="brca", patients=3) -> StudyContent:
    return StudyContent.model_validate(
        {
            "study": {
                "slug": slug,
                "name": "Breast",
                "endpoints": [
                    {"code": "OS", "label": "Overall survival", "time_zero": "diagnosis",
                     "causes": {"1": "death"}},
                ],
                "clinical": [
                    {"name": "age", "label": "Age", "kind": "number", "unit": "years"},
                    {"name": "grade", "label": "Grade", "kind": "category",
                     "levels": ["1", "2", "3"]},
                ],
            },
            "patients": [
                {"code": f"P{n}", "site": "AB"[n % 2],
                 "clinical": {"age": 50 + n, "grade": "2"} if n else {"age": None}}
                for n in range(patients)
            ],
            "outcomes": [
                {"patient": f"P{n}", "endpoint": "OS", "entry": 1.5, "time": 10 + n, "cause": n % 2}
                for n in range(patients)
            ],
            "specimens": [{"patient": "P1", "specimen": "P1-1", "kind": "primary"}],
        }
    )  # fmt: skip


@pytest.fixture
def staff(make_user):
    return make_user(is_staff=True)


def test_create_study(staff):
    study = create_study(actor=staff, content=content())
    assert study.role_of(staff) == Role.ADMIN
    (column_age, column_grade) = study.clinical_columns.all()
    assert (column_age.name, column_grade.levels) == ("age", ["1", "2", "3"])
    assert AuditEvent.objects.get(action="study.create").detail == {"slug": "brca", "patients": 3}
    rows = selectors.cohort(study)["rows"]
    assert rows[0] == {
        "patient": "P0", "site": "A", "part": "", "n_slides": 0, "values": {}, "slides": [],
        "outcomes": {"OS": {"entry": 1.5, "time": 10.0, "cause": 0}},
    }  # fmt: skip
    assert rows[1]["values"] == {"age": 51.0, "grade": "2"}


@pytest.mark.parametrize(("slug", "code"), [("brca", "study.exists"),
                                            ("import", "study.slug_reserved")])  # fmt: skip
def test_a_slug_that_cannot_be(staff, slug, code):
    create_study(actor=staff, content=content())
    with pytest.raises(InputError) as error:
        create_study(actor=staff, content=content(slug))
    assert error.value.code == code
    assert Study.objects.count() == 1


def test_only_staff_create_studies(make_user):
    with pytest.raises(PermissionDenied):
        create_study(actor=make_user("admin"), content=content())


@pytest.mark.parametrize("role", Role)
def test_only_admins_give_roles(study, make_user, role):
    actor, user = make_user(role), make_user()
    if role is not Role.ADMIN:
        with pytest.raises(PermissionDenied):
            set_role(actor=actor, study=study, user=user, role=Role.MEMBER)
        assert not Membership.objects.filter(user=user).exists()
        return
    set_role(actor=actor, study=study, user=user, role=Role.MEMBER)
    set_role(actor=actor, study=study, user=user, role=Role.INVESTIGATOR)
    assert study.role_of(user) == Role.INVESTIGATOR
    assert AuditEvent.objects.filter(action="study.set_role", study_id=study.pk).count() == 2


class TestVisibility:
    def test_the_list_holds_the_user_s_studies_with_counts(
        self, object_store, study, make_study, make_user, client
    ):
        make_study(name="Hidden")
        table = add_table(add_slide(study))
        add_slide(study, "S2", patient="P2")
        add_model(study, {table: "train"})
        client.force_login(make_user("investigator"))
        answer = client.get("/api/v1/studies/").json()
        assert answer["count"] == 1
        (shown,) = answer["results"]
        assert (shown["slug"], shown["role"]) == ("study", "investigator")
        assert (shown["n_patients"], shown["n_slides"], shown["n_models"]) == (2, 2, 1)

    def test_a_superuser_sees_all_as_admin(self, study, make_study, make_user):
        make_study()
        studies = selectors.studies_for(make_user(is_superuser=True))
        assert {s.role for s in studies} == {"admin"} and len(studies) == 2

    def test_the_list_takes_as_many_queries_for_many_as_for_one(
        self, make_study, make_user, client, django_assert_max_num_queries
    ):
        user = make_user()
        for _ in range(12):
            Membership.objects.create(user=user, study=make_study(), role="member")
        client.force_login(user)
        with django_assert_max_num_queries(4):  # session, user, count, studies
            assert client.get("/api/v1/studies/").json()["count"] == 12

    @pytest.mark.parametrize("role", Role)
    def test_the_detail_lists_the_permissions_of_the_role(self, study, make_user, client, role):
        client.force_login(make_user(role))
        answer = client.get("/api/v1/studies/study/").json()
        assert answer["permissions"] == sorted(a for a, roles in PERMISSIONS.items()
                                               if role in roles)  # fmt: skip


class TestPatients:
    @pytest.fixture
    def brca(self, staff, client):
        client.force_login(staff)
        return create_study(actor=staff, content=content(patients=150))

    def test_pages_of_patients_in_few_queries(self, brca, client, django_assert_max_num_queries):
        with django_assert_max_num_queries(7):
            answer = client.get("/api/v1/studies/brca/patients/").json()
        assert answer["count"] == 150 and len(answer["results"]) == 100
        assert answer["results"][1]["outcomes"]["OS"] == {"entry": 1.5, "time": 11, "cause": 1}
        assert client.get(answer["next"]).json()["results"]

    def test_search_and_site(self, brca, client):
        def codes(**query):
            answer = client.get("/api/v1/studies/brca/patients/", query | {"limit": 200}).json()
            return [row["patient"] for row in answer["results"]]

        assert codes(search="p14") == ["P14", *[f"P14{n}" for n in range(10)]]
        assert len(codes(site="A")) == 75
        assert codes(search="P14", site="nowhere") == []

    def test_the_cohort_takes_few_queries(self, brca, django_assert_max_num_queries):
        with django_assert_max_num_queries(6):
            assert len(selectors.cohort(brca)["rows"]) == 150


def test_a_study_with_all_that_hangs_on_it_can_be_deleted(object_store, study):
    table = add_table(add_slide(study))
    add_model(study, {table: "train"})
    study.delete()
    assert not Study.objects.exists()
