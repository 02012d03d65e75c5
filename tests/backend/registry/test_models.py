"""Model versions: promotion and rollback as recorded events, what their pages say, query counts."""

from __future__ import annotations

import numpy as np
import pytest
from django.core.exceptions import PermissionDenied

from backend.accounts.models import AuditEvent
from backend.accounts.permissions import Role
from backend.registry.models import Declined, Promotion
from backend.registry.selectors import gene_scores, held_out_label
from backend.registry.services import promote
from backend.slides.models import Slide
from ml.errors import InputError
from tests.backend.rows import GENES, add_layer, add_model, add_slide, add_table


@pytest.fixture
def table(object_store, study):
    return add_table(add_slide(study))


@pytest.fixture
def first(study, table):
    return add_model(study, {table: "train"}, status="promoted")


@pytest.fixture
def second(study, table, first):
    return add_model(study, {table: "train"})


@pytest.fixture
def admin(make_user, client):
    user = make_user("admin")
    client.force_login(user)
    return user


class TestPromotion:
    def test_promote_then_roll_back(self, admin, first, second):
        promotion = promote(user=admin, model=second, reason=" higher PCC ")
        first.refresh_from_db(), second.refresh_from_db()
        assert (first.status, second.status) == ("retired", "promoted")
        assert (promotion.kind, promotion.replaced, promotion.actor, promotion.reason) == (
            "promote", first, admin, "higher PCC",
        )  # fmt: skip
        assert promotion.metrics == {
            "promoted": {"version": 2, "metrics": second.metrics},
            "replaced": {"version": 1, "metrics": first.metrics},
        }

        back = promote(user=admin, model=first, reason="worse on cores")
        first.refresh_from_db(), second.refresh_from_db()
        assert (first.status, second.status) == ("promoted", "retired")
        assert (back.kind, back.replaced) == ("rollback", second)
        actions = AuditEvent.objects.filter(action__startswith="model.").order_by("pk")
        assert list(actions.values_list("action", flat=True)) == ["model.promote", "model.rollback"]

    def test_other_row_kinds_stay(self, admin, study, first, second):
        second.row_kind = "spot"
        second.save()
        promote(user=admin, model=second, reason="first for spots")
        first.refresh_from_db()
        assert first.status == "promoted"

    @pytest.mark.parametrize(("reason", "code"), [(" ", "promote.no_reason"),
                                                  ("again", "promote.in_use")])  # fmt: skip
    def test_refused(self, admin, first, second, reason, code):
        model = second if code == "promote.no_reason" else first
        with pytest.raises(InputError) as error:
            promote(user=admin, model=model, reason=reason)
        assert error.value.code == code and not Promotion.objects.exists()

    @pytest.mark.parametrize("role", [Role.MEMBER, Role.INVESTIGATOR])
    def test_only_admins(self, make_user, first, second, role):
        with pytest.raises(PermissionDenied):
            promote(user=make_user(role), model=second, reason="I like it")
        assert not Promotion.objects.exists()

    def test_over_http(self, admin, client, second):
        address = f"/api/v1/models/{second.pk}/promote/"
        post = {"content_type": "application/json"}
        empty = client.post(address, {"reason": ""}, **post)
        assert empty.status_code == 422 and empty.json()["code"] == "promote.no_reason"
        assert client.post(address, {}, **post).status_code == 400
        answer = client.post(address, {"reason": "better"}, **post).json()
        assert answer["status"] == "promoted"
        assert answer["promotions"][0] | {"id": 0, "at": ""} == {
            "id": 0, "at": "", "kind": "promote", "replaced": "PAST v1", "reason": "better",
            "actor": admin.display_name, "metrics": answer["promotions"][0]["metrics"],
        }  # fmt: skip


class TestReading:
    def test_detail(self, admin, client, study, table):
        other = add_table(add_slide(study, "S2", patient="P2"))
        model = add_model(study, {table: "train", other: "test"})
        answer = client.get(f"/api/v1/models/{model.pk}/").json()
        assert answer["exposures"] == {"train": 1, "validation": 0, "test": 1}
        tables = [(t["slide"], t["patient_code"], t["part"]) for t in answer["dataset"]["tables"]]
        assert tables == [("S2", "P2", "test"), ("S1", "P1", "train")]
        (evaluation,) = answer["evaluations"]
        assert evaluation["label"] == "held-out patients"
        genes = client.get(f"/api/v1/models/{model.pk}/evaluations/{evaluation['id']}/genes/")
        assert genes.json()["genes"][0] == {"gene": GENES[0], "pcc": 0.1, "ridge_pcc": None}
        assert len(genes.json()["genes"]) == len(GENES)
        missing = client.get(f"/api/v1/models/{model.pk}/evaluations/0/genes/")
        assert missing.status_code == 404

    def test_sections_of_the_same_patient_are_called_so(self, first):
        first.dataset.same_patient = True
        assert held_out_label(first.dataset, "test") == "held-out section of the same patient"

    def test_scores_are_of_the_evaluation_s_part(self, first):
        evaluation = first.evaluations.get()
        assert [row["pcc"] for row in gene_scores(evaluation)] == pytest.approx(
            [0.1, 0.11, 0.12, 0.13]
        )

    def test_slide_document(self, admin, client, study, table, first):
        held_out = add_table(add_slide(study, "S2", patient="P2"), symbols=[], source="grid")
        for each in (table, held_out):
            add_layer(each, first, np.ones((40, 4)))
        by_code = {
            slide["code"]: slide
            for slide in client.get("/api/v1/studies/study/slides/").json()["results"]
        }
        seen = by_code["S1"]["tables"][0]["layers"][0]
        assert (seen["exposed"], seen["part"], seen["n_genes"]) == (True, "train", 4)
        unseen = by_code["S2"]["tables"][0]["layers"][0]
        assert (unseen["exposed"], unseen["part"]) == (False, None)
        assert seen["model"]["name"] == "PAST v1" and unseen["kind"] == "expression"

        detail = client.get(f"/api/v1/slides/{table.slide_id}/").json()
        assert detail["tables"][0]["layers"][0].pop("not_predictable") == {}
        assert detail["tables"][0]["layers"][0].pop("intervals") is None
        assert detail["tables"][0].pop("annotated") is False
        assert detail["tables"] == by_code["S1"]["tables"]
        assert detail["study"] == "study" and detail["synthetic"] is False
        coordinates = client.get(detail["tables"][0]["coordinates_url"])
        assert "immutable" in coordinates["Cache-Control"]

    def test_what_a_model_cannot_tell_and_how_far_it_works(self, admin, client, first, table):
        answer = client.get(f"/api/v1/models/{first.pk}/").json()
        assert (answer["not_predictable"], answer["ood"]) == ({}, None)
        first.metrics |= {"not_predictable": ["CD3E"], "ood": {"decline_above": 0.5}}
        first.save()
        add_layer(table, first, np.ones((40, 4)))
        unknown = {"CD3E": {"pcc": None, "low": None, "high": None}}
        answer = client.get(f"/api/v1/models/{first.pk}/").json()
        assert (answer["not_predictable"], answer["ood"]) == (unknown, {"decline_above": 0.5})
        slide = client.get(f"/api/v1/slides/{table.slide_id}/").json()
        assert slide["tables"][0]["layers"][0]["not_predictable"] == unknown

    def test_slides_say_who_declined_them_and_whether_they_are_drawn(
        self, admin, client, study, table, first
    ):
        add_slide(study, "S2", patient="P2")
        Slide.objects.filter(code="S2").update(synthetic=True)
        Declined.objects.create(
            slide=table.slide, model_artifact=first.artifact, share=0.8, threshold=0.5
        )
        told = [{"model": "PAST v1", "share": 0.8, "threshold": 0.5}]
        answer = client.get("/api/v1/studies/study/slides/").json()["results"]
        assert {s["code"]: (s["declined"], s["synthetic"]) for s in answer} == {
            "S1": (told, False), "S2": ([], True),
        }  # fmt: skip
        detail = client.get(f"/api/v1/slides/{table.slide_id}/").json()
        assert (detail["declined"], detail["synthetic"]) == (told, False)

    def test_a_list_takes_as_many_queries_for_many_slides_as_for_one(
        self, admin, client, study, table, first, django_assert_max_num_queries
    ):
        add_layer(table, first, np.ones((40, 4)))
        for n in range(2, 8):
            other = add_table(add_slide(study, f"S{n}", patient=f"P{n}"))
            add_layer(other, first, np.ones((40, 4)))
            add_model(study, {other: "train"})
        # session, user, study, count, slides, tables, layers, models, exposures, genes, parts,
        # who declined
        with django_assert_max_num_queries(12):
            assert client.get("/api/v1/studies/study/slides/").json()["count"] == 7
        with django_assert_max_num_queries(5):
            assert client.get("/api/v1/studies/study/models/").json()["count"] == 7

    def test_pages_take_few_queries(
        self, admin, client, study, table, first, django_assert_max_num_queries
    ):
        for n in range(2, 8):
            add_layer(add_table(add_slide(study, f"S{n}")), first, np.ones((40, 4)))
        with django_assert_max_num_queries(22):
            page = client.get("/studies/study/")
        assert page.status_code == 200 and b"Research use only" in page.content
        with django_assert_max_num_queries(16):
            assert client.get(f"/models/{first.pk}/").status_code == 200


class TestPages:
    """Pages render, say what they must, and keep to their roles."""

    def test_home(self, admin, client, study):
        page = client.get("/").content.decode()
        assert study.name in page and "Research use only" in page

    def test_import_is_for_staff(self, admin, make_user, client):
        assert client.get("/import/").status_code == 403
        client.force_login(make_user(is_staff=True))
        assert client.get("/import/").status_code == 200

    def test_synthetic_studies_say_so(self, admin, client, study, table):
        study.synthetic = True
        study.save()
        for address in ("/studies/study/", "/studies/study/cohort/", f"/slides/{table.slide_id}/"):
            assert "ynthetic" in client.get(address).content.decode(), address

    def test_model_page(self, admin, client, first):
        page = client.get(f"/models/{first.pk}/").content.decode()
        assert "PAST v1" in page and "held-out patients" in page
        assert f"/models/{first.pk}/evaluation/" in page


class TestStartingJobs:
    def test_import_over_http(self, make_user, client, tmp_path, settings):
        settings.IMPORT_ROOTS = [str(tmp_path)]
        client.force_login(make_user(is_staff=True))
        post = {"content_type": "application/json"}
        answer = client.post("/api/v1/studies/import/", {"path": str(tmp_path)}, **post)
        assert answer.status_code == 202 and answer.json()["kind"] == "import"
        for body, status in [
            ({"path": "/etc"}, 422),
            ({"path": str(tmp_path), "format": "zip"}, 400),
            ({"path": str(tmp_path), "extra": 1}, 400),
            ({}, 400),
        ]:
            refused = client.post("/api/v1/studies/import/", body, **post)
            assert refused.status_code == status, body
        client.force_login(make_user("admin"))
        assert client.post("/api/v1/studies/import/", {"path": "/"}, **post).status_code == 403

    def test_train_parameters_are_checked(self, admin, client, first):
        post = {"content_type": "application/json"}
        for body in ({"epochs": 0}, {"encoder": "vgg"}, {"learning_rate": 1}):
            assert client.post("/api/v1/studies/study/train/", body, **post).status_code == 400
        refused = client.post("/api/v1/studies/study/train/", {"encoder": "uni"}, **post)
        assert refused.status_code == 400 and "PAST_ENCODERS" in refused.content.decode()
        answer = client.post("/api/v1/studies/study/train/", {"test": ["S1"]}, **post)
        assert answer.status_code == 202
        assert answer.json()["study"] == "study" and answer.json()["status"] == "queued"
