"""The evaluation page, its files, the gate, and the log of looks at the held-out part."""

import csv
import io
import json

import pytest

from backend.accounts.models import AuditEvent
from backend.jobs.models import Artifact
from backend.jobs.services import store_artifact
from backend.registry.evaluation_page import verdict
from backend.registry.evaluations import looks
from backend.registry.landing_scores import scores_picture
from backend.registry.models import Promotion, PromotionGate
from backend.registry.services import promote, set_gate
from backend.studies.models import Membership
from ml.errors import InputError
from tests.backend.rows import GENES, add_full_evaluation, add_model, add_slide, add_table

pytestmark = pytest.mark.django_db


@pytest.fixture
def tables(object_store, study):
    return {
        add_table(add_slide(study), n_rows=40): "train",
        add_table(add_slide(study, "S2", patient="P2"), n_rows=40): "test",
    }


@pytest.fixture
def first(study, tables):
    return add_model(study, tables, status="promoted")


@pytest.fixture
def second(study, tables, first):
    return add_model(study, tables)


@pytest.fixture
def admin(make_user, client):
    user = make_user("admin")
    client.force_login(user)
    return user


def page_of(client, model, part=""):
    return client.get(f"/models/{model.pk}/evaluation/{part}").content.decode()


class TestPage:
    def test_says_in_one_heading_whether_it_beats_the_baselines(self, admin, client, first):
        assert "Short scores" in page_of(client, first)
        full = add_full_evaluation(first)
        page = page_of(client, first)
        assert "Ahead of all 1 baselines" in page and "ridge on the frozen encoder" in page
        slide = first.study.slides.get(code="S1")
        assert "null: rows permuted" in page and f"/slides/{slide.pk}/?x=10" in page
        full.metrics["baselines"]["frozen_ridge"]["verdict"] = "behind"
        full.save()
        assert "Behind 1 of 1 baselines" in page_of(client, first)

    def test_too_little_data_is_a_verdict(self):
        found = verdict({"baselines": {"a": {"title": "A", "verdict": "cannot tell"},
                                       "b": {"title": "B", "verdict": "ahead"}}})  # fmt: skip
        assert found["kind"] == "cannot-tell" and found["unclear"] == ["A"]
        assert verdict({"baselines": {"mean": {"pcc_median": 0.0}}}) is None

    def test_versions_on_other_slides_are_not_comparable(self, admin, client, study, first, second):
        other = add_table(add_slide(study, "S3", patient="P3"), n_rows=40)
        add_model(study, {other: "test"})
        page = page_of(client, first)
        assert page.count(">other slides<") == 1 and "PAST v2" in page and "PAST v3" in page

    def test_the_audit_is_shown(self, admin, client, first):
        images = {"pairs": 12, "highest_similarity": 0.33, "limit": 0.5, "too_small": ["S9"]}
        add_full_evaluation(first, audit={"scope": "held-out patients", "images": images})
        page = page_of(client, first)
        assert "Leakage audit" in page and "0.33" in page and "S9" in page

    def test_problems_are_said(self, admin, client, first):
        add_full_evaluation(first, problems=["2 patients: too few to resample."])
        assert "2 patients: too few to resample." in page_of(client, first)

    def test_a_version_without_held_out_slides(self, admin, client, study, tables):
        model = add_model(study, {next(iter(tables)): "train"})
        model.evaluations.all().delete()
        assert "Not scored" in page_of(client, model)


class TestGene:
    def test_rows_are_given_slide_by_slide(self, admin, client, first):
        full = add_full_evaluation(first)
        url = f"/api/v1/models/{first.pk}/evaluations/{full.pk}/genes"
        (slide,) = client.get(f"{url}/{GENES[1]}/").json()["slides"]
        assert slide["code"] == "S1" and slide["of"] == 40 and len(slide["x"]) == 30
        assert slide["measured"][0] is None and all(v is not None for v in slide["measured"][1:])
        assert client.get(f"{url}/NONE/").status_code == 404

    def test_short_scores_have_none(self, admin, client, first):
        short = first.evaluations.get()
        url = f"/api/v1/models/{first.pk}/evaluations/{short.pk}"
        assert client.get(f"{url}/genes/ERBB2/").status_code == 404
        assert client.get(f"{url}/files/report.json").status_code == 404
        assert client.get(f"{url}/files/..%2Fsecret").status_code == 404

    def test_scores_can_be_taken_away(self, admin, client, first):
        full = add_full_evaluation(first)
        answer = client.get(f"/api/v1/models/{first.pk}/evaluations/{full.pk}/files/per_gene.csv")
        text = b"".join(answer.streaming_content).decode()
        assert [row["gene"] for row in csv.DictReader(io.StringIO(text))] == GENES
        assert "attachment" in answer["Content-Disposition"]


class TestGate:
    def set(self, user, study, **rules):
        return set_gate(user=user, study=study, params=rules)

    def test_the_full_report(self, admin, study, first, second):
        self.set(admin, study, full_report=True)
        with pytest.raises(InputError) as error:
            promote(user=admin, model=second, reason="better")
        assert error.value.code == "promote.gate" and "Full report" in error.value.what
        assert not Promotion.objects.exists()
        add_full_evaluation(second)
        assert promote(user=admin, model=second, reason="better").model_version == second

    @pytest.mark.parametrize(("margin", "passes"), [(0.0, False), (0.05, False), (0.11, True)])
    def test_the_median_is_not_below_that_in_use(self, admin, study, first, second, margin, passes):
        add_full_evaluation(first, pcc_median=0.3)
        add_full_evaluation(second, pcc_median=0.2)
        self.set(admin, study, median_not_worse=True, margin=margin)
        if passes:
            promote(user=admin, model=second, reason="better")
        else:
            with pytest.raises(InputError, match=r"0.200 against 0.300"):
                promote(user=admin, model=second, reason="better")

    def test_other_held_out_slides_cannot_be_compared(self, admin, study, first):
        other = add_model(study, {add_table(add_slide(study, "S3", patient="P3")): "test"})
        self.set(admin, study, median_not_worse=True)
        with pytest.raises(InputError, match="different held-out slides"):
            promote(user=admin, model=other, reason="better")

    @pytest.mark.parametrize("verdict", ["ahead", "cannot tell", "behind"])
    def test_no_baseline_ahead(self, admin, study, first, second, verdict):
        full = add_full_evaluation(second)
        full.metrics["baselines"]["frozen_ridge"]["verdict"] = verdict
        full.save()
        self.set(admin, study, no_baseline_ahead=True)
        if verdict == "behind":
            with pytest.raises(InputError, match="ridge on the frozen encoder"):
                promote(user=admin, model=second, reason="better")
        else:
            promote(user=admin, model=second, reason="better")

    def test_a_version_without_scores_does_not_pass(self, admin, study, first, second):
        second.evaluations.all().delete()
        self.set(admin, study, no_baseline_ahead=True)
        with pytest.raises(InputError, match="compared with no baseline"):
            promote(user=admin, model=second, reason="better")

    def test_a_change_is_recorded_and_only_admins_make_it(self, admin, client, study, make_user):
        body = {"no_baseline_ahead": True, "margin": 0.01}
        url = f"/api/v1/studies/{study.slug}/gate/"
        assert client.post(url, body, content_type="application/json").json()["no_baseline_ahead"]
        assert AuditEvent.objects.filter(action="model.gate").get().detail["margin"] == 0.01
        wrong = client.post(url, {"margin": 2}, content_type="application/json")
        assert wrong.status_code == 400 and PromotionGate.objects.get().margin == 0.01
        client.force_login(make_user("investigator"))
        assert client.post(url, body, content_type="application/json").status_code == 403


def test_looks_are_those_of_all_versions_on_these_slides(study, first, second):
    other = add_model(study, {add_table(add_slide(study, "S3", patient="P3")): "test"})
    add_full_evaluation(second)
    assert looks(first).count() == 3 and looks(other).count() == 1


class TestStart:
    def test_a_model_without_a_held_out_part_is_refused(self, admin, client, study, tables):
        model = add_model(study, {next(iter(tables)): "train"})
        answer = client.post(
            f"/api/v1/models/{model.pk}/evaluate/", {}, content_type="application/json"
        )
        assert answer.status_code == 422 and answer.json()["code"] == "evaluate.nothing_held_out"

    def test_a_table_that_is_gone_is_said(self, admin, client, first, tables):
        next(iter(tables)).delete()
        answer = client.post(
            f"/api/v1/models/{first.pk}/evaluate/", {}, content_type="application/json"
        )
        assert answer.status_code == 422 and answer.json()["code"] == "evaluate.table_gone"


class TestLanding:
    def test_the_study_page_shows_genes_beside_baselines_and_nulls(self, admin, client, first):
        add_full_evaluation(first)
        page = client.get(f"/studies/{first.study.slug}/").content.decode()
        assert "How well genes are predicted" in page and "ahead of all 1 baselines" in page
        scores = json.loads(
            page.split('id="page" type="application/json">')[1].split("</script>")[0]
        )
        assert scores["scores"]["titles"] == {"frozen_ridge": "ridge on the frozen encoder"}
        assert scores["scores"]["controls"]["permuted"]["pcc_median"] == 0
        assert scores["scores"]["genes"][0] == {"pcc": 0.2, "frozen_ridge_pcc": 0.1}
        assert scores["scores"]["twins"] == {}

    def test_null_twins_are_those_that_the_reader_may_see(
        self, client, make_user, make_study, study, first
    ):
        study.synthetic = True
        study.save()
        twin = make_study(slug=f"{study.slug}-permuted")
        table = add_table(add_slide(twin), n_rows=40)
        add_full_evaluation(add_model(twin, {table: "test"}, status="promoted"))
        user = make_user("member", study)
        assert scores_picture(user, study, first)["twins"] == {}
        user = make_user("member", twin)
        Membership.objects.create(user=user, study=study, role="member")
        found = scores_picture(user, study, first)["twins"]
        assert found == {"null twin: counts permuted": [0.2] * 4}


class TestCards:
    def test_cards_are_on_the_model_page(self, admin, client, first):
        add_full_evaluation(first)
        page = client.get(f"/models/{first.pk}/").content.decode()
        assert "# PAST v1 of" in page and "# Dataset version 1 of" in page

    def test_the_model_card_says_what_the_records_say(self, admin, client, first):
        add_full_evaluation(first)
        text = client.get(f"/api/v1/models/{first.pk}/card.md").content.decode()
        said = ["Research use only", "PAST v1", first.artifact.sha256, "| train | 1 | 1 |"]
        said += ["ridge on the frozen encoder", "PAST ahead", "Looks at the test part"]
        assert [part for part in said if part not in text] == []

    def test_short_scores_of_earlier_software_make_a_card_too(self, admin, client, first):
        text = client.get(f"/api/v1/models/{first.pk}/card.md").content.decode()
        assert "Part: test" in text and "0.100" in text

    def test_the_data_card_lists_slides_with_hashes(self, admin, client, first, tables, tmp_path):
        (tmp_path / "dataset.json").write_text(
            json.dumps({"tables": [{"panel_hash": "abc", "n_genes": 4}]})
        )
        first.dataset.artifact = store_artifact(
            job=first.job, path=tmp_path / "dataset.json", kind=Artifact.Kind.DATASET
        )
        first.dataset.save()
        text = client.get(f"/api/v1/models/{first.pk}/data-card.md").content.decode()
        assert "abc" in text and all(t.artifact.sha256[:12] in text for t in tables)
