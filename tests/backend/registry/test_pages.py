"""The study's page and "What was planted": what each role sees, empty states, query counts."""

from __future__ import annotations

import numpy as np
import pytest
from django.urls import reverse

from backend.accounts.permissions import Role
from backend.registry.landing import held_out_picture, without_prediction
from backend.registry.models import Declined
from backend.registry.selectors import best_genes, not_predictable
from backend.registry.slide_selectors import study_slides
from backend.studies.models import Endpoint, Outcome, Patient
from tests.backend.registry.truth import plant
from tests.backend.rows import GENES, add_job, add_layer, add_model, add_slide, add_table


@pytest.fixture
def open_page(client, make_user, study):
    """`open_page(role, name="study") -> (context, text)` of a page of `study`."""

    def open_(role=Role.MEMBER, name="study"):
        client.force_login(make_user(role))
        answer = client.get(reverse(name, args=[study.slug]))
        assert answer.status_code == 200
        return answer.context, answer.content.decode()

    return open_


@pytest.fixture
def measured(object_store, study):
    """Two measured slides: a large one of the patient held out, a small one to train on."""
    held_out = add_table(add_slide(study, "S2", patient="P2", size=400))
    return {add_table(add_slide(study, "S1", patient="P1")): "train", held_out: "test"}


@pytest.fixture
def model(study, measured):
    return add_model(study, measured, status="promoted")


@pytest.fixture
def predicted(model, measured):
    table = list(measured)[1]
    add_layer(table, model, np.random.default_rng(1).random((table.n_rows, len(GENES))))
    return table


@pytest.fixture
def outcomes(study):
    endpoint = Endpoint.objects.create(
        study=study, code="OS", label="Overall survival", time_zero="diagnosis", causes={"1": "d"}
    )
    patient, _ = Patient.objects.get_or_create(study=study, code="P1")
    Outcome.objects.create(patient=patient, endpoint=endpoint, time=12.0, cause=1)


class TestLandingFigures:
    def test_the_largest_held_out_slide_with_its_best_genes(self, study, make_user, predicted):
        model = study.model_versions.get()
        picture = held_out_picture(model, study_slides(study, make_user(Role.MEMBER)))
        assert picture["slide"]["code"] == "S2" and picture["table"]["id"] == predicted.pk
        assert [score["gene"] for score in picture["genes"]] == GENES[::-1]
        assert picture["scored_on"] == "held-out patients"

    def test_genes_that_the_model_refuses_are_not_shown(self, predicted, model):
        model.metrics["not_predictable"] = [GENES[0], GENES[3]]
        model.save()
        assert [score["gene"] for score in best_genes(model)] == [GENES[2], GENES[1]]

    def test_page_draws_it(self, open_page, predicted):
        context, text = open_page()
        assert context["picture"]["slide"]["code"] == "S2"
        assert 'id="picture-measured"' in text and "split=1" in text

    def test_no_measured_slide(self, open_page, study, object_store):
        add_slide(study)
        for role, asked in ((Role.MEMBER, "Ask an admin"), (Role.ADMIN, "Ask an admin")):
            text = open_page(role)[1]
            assert "No measured slide." in text and asked in text

    def test_no_model(self, open_page, measured):
        assert "Ask an admin of the study to train one." in open_page(Role.MEMBER)[1]
        text = open_page(Role.ADMIN)[1]
        assert "No model yet." in text and reverse("train", args=["study"]) in text

    def test_training_under_way(self, open_page, study, measured):
        job = add_job(study, "train", status="running")
        text = open_page(Role.MEMBER)[1]
        assert "A model is being trained." in text and f"/jobs/{job.pk}/" in text

    def test_not_predicted_yet(self, open_page, study, model):
        assert "predict-held-out" not in open_page(Role.MEMBER)[1]
        assert 'data-slide="S2"' in open_page(Role.ADMIN)[1]
        job = add_job(study, "predict", status="queued")
        text = open_page(Role.ADMIN)[1]
        assert 'data-slide="S2"' not in text and f"/jobs/{job.pk}/" in text

    def test_survival_by_role(self, open_page, outcomes):
        member = open_page(Role.MEMBER)[1]
        assert "km-plot" not in member and "for investigators and admins" in member
        assert "km-plot" in open_page(Role.INVESTIGATOR)[1]

    def test_no_outcomes(self, open_page, predicted):
        assert "No outcomes imported." in open_page(Role.INVESTIGATOR)[1]

    def test_limits_are_said(self, open_page, study):
        study.limits = "It says nothing about tissue."
        study.save()
        text = open_page()[1]
        assert "What this does not show" in text and study.limits in text


class TestSlides:
    def test_large_ones_first(self, study, make_user, measured):
        codes = [slide["code"] for slide in study_slides(study, make_user(Role.MEMBER))]
        assert codes == ["S2", "S1"]

    def test_declined_and_real_tissue(self, open_page, study, model, measured):
        slide = add_slide(study, "real", patient="R1")
        Declined.objects.create(
            slide=slide, model_artifact=model.artifact, share=0.93, threshold=0.5
        )
        study.synthetic = True
        study.save()
        study.slides.exclude(pk=slide.pk).update(synthetic=True)
        context, text = open_page()
        assert text.count("real tissue") == 1 and "declined · unlike training" in text
        assert without_prediction(model, context["slides"]) == 2

    def test_other_stains_cannot_be_chosen(self, open_page, study, model):
        add_slide(study, "S3", stain="IHC")
        text = open_page(Role.ADMIN)[1]
        assert 'value="S1"' in text and 'value="S3"' not in text
        assert 'id="stain-filter"' in text

    @pytest.mark.parametrize(
        ("stain", "said"), [("H&E", "Predict its expression"), ("IHC", "predicted on H&amp;E")]
    )
    def test_the_viewer_says_what_can_be_predicted(self, client, make_user, study, stain, said):
        slide = add_slide(study, "S1", stain=stain)
        client.force_login(make_user(Role.ADMIN))
        text = client.get(reverse("slide", args=[slide.pk])).content.decode()
        assert said in text
        assert text.count("Predict its expression") == (stain == "H&E")

    def test_as_many_queries_for_many_slides(
        self, client, make_user, study, predicted, django_assert_max_num_queries
    ):
        client.force_login(make_user(Role.ADMIN))
        for n in range(3, 9):
            add_slide(study, f"S{n}", patient=f"P{n}")
        with django_assert_max_num_queries(34):
            assert client.get(reverse("study", args=["study"])).status_code == 200


class TestPlanted:
    def test_nothing_planted(self, client, make_user, study):
        client.force_login(make_user(Role.ADMIN))
        for name in ("planted", "planted-document"):
            assert client.get(reverse(name, args=["study"])).status_code == 404
        assert "What was planted" not in client.get("/studies/study/").content.decode()

    def test_strangers_find_nothing(self, client, make_user, study, object_store):
        plant(study)
        client.force_login(make_user())
        for name in ("planted", "planted-document"):
            assert client.get(reverse(name, args=["study"])).status_code == 404

    def test_linked_from_the_study(self, open_page, study, object_store):
        plant(study)
        assert open_page()[1].count(reverse("planted", args=["study"])) == 2

    def test_members_see_no_survival_numbers(self, client, open_page, study, object_store):
        plant(study)
        text = open_page(Role.MEMBER, "planted")[1]
        document = client.get(reverse("planted-document", args=["study"])).content.decode()
        for told in (text, document):
            assert "0.619" not in told and "-0.871" not in told and "31.25" not in told
        assert "Cox fit" not in text and "events" not in document

    def test_investigators_see_what_was_recovered(self, client, open_page, study, object_store):
        plant(study)
        text = open_page(Role.INVESTIGATOR, "planted")[1]
        assert "0.619" in text and "-0.871" in text and "Cox fit" in text
        answer = client.get(reverse("planted-document", args=["study"]))
        assert answer.json()["seed"] == 7 and "attachment" in answer["Content-Disposition"]

    def test_found_beside_possible(self, open_page, study, predicted):
        plant(study)
        context = open_page(Role.MEMBER, "planted")[0]
        genes = {gene["symbol"]: gene for gene in context["page"]["genes"]}
        assert genes["ERBB2"]["found"] == pytest.approx(0.1)
        assert genes["ERBB2"]["share"] == pytest.approx(0.1 / 0.6)
        assert genes["CD3E"]["share"] is None, "next to nothing is possible"
        link = context["links"][0]
        assert (link["n"], link["possible"]) == (2, pytest.approx(0.5))

    def test_without_a_model(self, open_page, study, object_store):
        plant(study)
        context, text = open_page(Role.MEMBER, "planted")
        assert not context["has_scores"] and "Train a model" in text

    def test_twins(self, open_page, study, object_store, make_study, make_user):
        plant(study)
        assert "Not imported" in open_page(Role.MEMBER, "planted")[1]
        make_study(slug="study-permuted")
        assert "/studies/study-permuted/" not in open_page(Role.MEMBER, "planted")[1]

    def test_few_queries(self, client, make_user, study, predicted, django_assert_max_num_queries):
        plant(study)
        client.force_login(make_user(Role.MEMBER))
        with django_assert_max_num_queries(12):
            client.get(reverse("planted", args=["study"]))


class TestNotPredictable:
    def test_with_its_score_in_validation(self, client, make_user, study, predicted, model):
        model.metrics["not_predictable"] = ["ERBB2", "KRT5"]
        model.save()
        none = {"pcc": None, "low": None, "high": None}
        assert not_predictable(model) == {"ERBB2": none, "KRT5": none}, "no validation scores"
        client.force_login(make_user(Role.MEMBER))
        page = client.get(reverse("model", args=[model.pk])).content.decode()
        assert "not predictable from H&amp;E" in page
        slide = client.get(f"/api/v1/slides/{predicted.slide_id}/").json()
        assert set(slide["tables"][0]["layers"][0]["not_predictable"]) == {"ERBB2", "KRT5"}


class TestSplit:
    def test_who_decided_it(self, client, make_user, model):
        model.dataset.split = "planned"
        model.dataset.save()
        client.force_login(make_user(Role.MEMBER))
        page = client.get(reverse("model", args=[model.pk])).content.decode()
        assert "as planned in the study" in page


class TestAbilities:
    """The model page says what beside expression was measured, and what was not."""

    def text(self, client, model):
        response = client.get(reverse("model", args=[model.pk]))
        assert response.status_code == 200
        return " ".join(response.content.decode().split())

    def test_what_was_not_measured_is_said(self, make_user, client, study, model):
        client.force_login(make_user(Role.ADMIN))
        text = self.text(client, model)
        assert "carried no cell types" in text and "there was no validation part" in text
        assert "the two ways of inference were not compared" in text

    def test_types_intervals_and_ways(self, make_user, client, study, model):
        client.force_login(make_user(Role.ADMIN))
        scored = {
            "macro_f1": 0.712, "macro_f1_low": 0.65, "macro_f1_high": 0.77, "difference": 0.111,
            "difference_low": None, "difference_high": None, "balanced_accuracy": 0.7,
            "ece": 0.021, "per_type": {"T cell": {"f1": 0.81, "n": 40}},
        }  # fmt: skip
        model.metrics |= {
            "cell_types": {
                "types": ["T cell", "tumour"], "fitted_on": 900, "calibrated_on": "validation",
                "left_out": [{"type": "mast cell", "cells": 3, "patients": 1}],
                "methods": {"probe": {"test": scored}, "zero_shot": {"validation": scored}},
            },
            "intervals": {
                "level": 0.9, "half_width": {}, "patients": 6,
                "coverage": {
                    "test": {"overall": 0.903, "per_gene_q05": 0.88, "per_gene_q95": 0.92}
                },
            },
            "ways": {
                "rows": 400, "part": "validation", "crop": {"pcc": 0.27}, "shared": {"pcc": 0.268},
                "speedup": 31.0, "pcc_loss": 0.002,
            },
        }  # fmt: skip
        model.save()
        text = self.text(client, model)
        assert ">0.712</data>" in text and "mast cell is left out" in text
        assert "no labelled cells in the test part" in text
        assert "90 % intervals per gene" in text and "90.3 %" in text
        assert ">31.0</data> times as fast" in text and ">0.268</data> against" in text
        assert text.index("probe") < text.index("zero shot")
