"""Train and predict as real jobs on the drawn study: from measured slides to a layer."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from backend.cells.expression import open_layer, open_table
from backend.cells.models import CellTable, Layer
from backend.jobs.models import Job
from backend.jobs.services import local, start_job
from backend.registry.content import TrainParams
from backend.registry.datasets import freeze_dataset
from backend.registry.models import Dataset, Exposure, ModelVersion, PatientTable, Promotion
from backend.registry.services import start_import, start_prediction, start_training
from backend.studies.models import Study
from ml.errors import InputError
from ml.io.layers import UNIT
from tests.backend.rows import GENES, add_job, add_layer, add_model, add_slide, add_table

QUICK = {"epochs": 1, "preset": "tiny", "seed": 1}


@pytest.fixture
def admin(make_user):
    return make_user(is_staff=True)


@pytest.fixture
def drawn(run_here, admin, tiny_folder) -> Study:
    job = run_here(start_import(user=admin, path=str(tiny_folder), form="study"))
    assert job.status == Job.Status.SUCCEEDED, job.failure
    return job.study


def test_train_then_predict(run_here, drawn, admin, client):
    CellTable.objects.filter(slide__code__endswith="-section").delete()  # cores alone: seconds
    job = run_here(start_training(user=admin, study=drawn, params=QUICK))
    assert job.status == Job.Status.SUCCEEDED, (job.failure, list(job.events.values("data")))
    model = ModelVersion.objects.get()
    _check_model(model, job, drawn, admin)

    measured = drawn.slides.get(code="P004-core")
    bare = drawn.slides.get(code="P014-core")
    params = {"model": model.pk, "slides": [measured.code, bare.code]}
    job = run_here(start_prediction(user=admin, study=drawn, params=params))
    assert job.status == Job.Status.SUCCEEDED, (job.failure, list(job.events.values("data")))
    _check_prediction(model, measured, bare)

    client.force_login(admin)
    document = client.get(f"/api/v1/slides/{bare.pk}/").json()
    (table,) = document["tables"]
    assert not table["measured"]
    by_kind = {layer["kind"]: layer for layer in table["layers"]}
    assert set(by_kind) == {"expression", "cell_type", "trust"} and len(table["layers"]) == 3
    layer = by_kind["expression"]
    assert all(
        found["model"] == {"id": model.pk, "name": "PAST v1", "version": 1}
        for found in by_kind.values()
    )
    assert layer["intervals"]["half_width"].keys() >= {"EPCAM"}
    assert layer["n_genes"] == model.config["n_genes"] and not layer["exposed"]

    # Predicting again replaces the layer and keeps the patients' table.
    tables, patients = CellTable.objects.count(), PatientTable.objects.count()
    before = set(Layer.objects.values_list("pk", flat=True))
    params = {"model": model.pk, "slides": [bare.code]}
    again = run_here(start_prediction(user=admin, study=drawn, params=params))
    assert again.status == Job.Status.SUCCEEDED, again.failure
    assert Layer.objects.count() == len(before)
    assert not Layer.objects.filter(pk=layer["id"]).exists()
    assert (CellTable.objects.count(), PatientTable.objects.count()) == (tables, patients)


def _check_model(model, job, study, admin):
    assert (model.version, model.row_kind, model.status) == (1, "cell", "promoted")
    assert model.created_by == admin and model.job == job
    promotion = Promotion.objects.get()
    assert (promotion.model_version, promotion.reason) == (model, "first model version")
    dataset = model.dataset
    assert not dataset.same_patient and dataset.tables.count() == 8
    planned = dict(study.patients.exclude(part="").values_list("code", "part"))
    assert all(planned[t.patient.code] == t.part for t in dataset.tables.all())
    manifest = json.loads(local(dataset.artifact).read_text())
    assert [t["slide"] for t in manifest["tables"]] == sorted(
        t["slide"] for t in manifest["tables"]
    )
    seen = Exposure.objects.filter(model_artifact=model.artifact)
    assert {(e.patient, e.part) for e in seen} == {
        (t.patient, t.part) for t in dataset.tables.all()
    }
    assert {e.part for e in model.evaluations.all()} == {"validation", "test"}
    assert "pcc_median" in model.evaluations.get(part="test").metrics
    assert list(model.artifact.inputs.all()) == [dataset.artifact]
    assert (local(model.artifact) / "model.safetensors").is_file()
    assert "vocabulary" not in model.config and model.config["n_genes"] > 0
    assert job.result["links"] == [{"label": "PAST v1", "url": f"/models/{model.pk}/"}]
    assert job.events.filter(kind="metric").exists()


def _check_prediction(model, measured, bare):
    layers = {layer.table.slide: layer for layer in Layer.objects.select_related("table__slide")}
    assert set(layers) == {measured, bare}
    assert layers[measured].table.is_measured
    found = layers[bare].table
    assert (found.source, found.n_genes, found.row_kind) == ("nuclei:classical", 0, "cell")
    for layer in layers.values():
        assert layer.unit == UNIT and layer.model_artifact == model.artifact
        opened = open_layer(layer.artifact)
        assert opened.n_rows == layer.table.n_rows == open_table(layer.table.artifact).n_rows
        assert opened.table_sha256 == layer.table.artifact.sha256
    table = PatientTable.objects.get(source="predicted")
    assert table.model_artifact == model.artifact and table.n_patients == 2
    assert table.columns.count() == model.config["n_genes"]
    means = pd.read_parquet(local(table.artifact))
    opened = open_layer(layers[bare].artifact)
    gene = opened.symbols[0]
    code = bare.specimen.patient.code
    assert means.loc[code, gene] == pytest.approx(opened.gene(gene).mean(), abs=0.02)


@pytest.fixture
def two_patients(object_store, study):
    return [add_table(add_slide(study, f"S{n}", patient=f"P{n}"), n_rows=20 + n) for n in (1, 2)]


def train_job(study, admin_of_study, **params) -> Job:
    return start_job(user=admin_of_study, kind="train", study=study, params=params)


class TestDataset:
    def test_another_attempt_finds_the_same_dataset(self, study, two_patients, make_user):
        job = train_job(study, make_user("admin"))
        first, _ = freeze_dataset(job=job, params=TrainParams())
        second, tables = freeze_dataset(job=job, params=TrainParams())
        assert first == second and Dataset.objects.count() == 1 and first.version == 1
        assert {t.code: str(t.part) for t in tables} == {"S1": "train", "S2": "test"}

    def test_another_split_is_another_version(self, study, two_patients, make_user):
        job = train_job(study, make_user("admin"))
        freeze_dataset(job=job, params=TrainParams())
        other, _ = freeze_dataset(job=job, params=TrainParams(test=["S1"]))
        assert other.version == 2

    def test_sections_of_one_patient_say_so(self, object_store, study, make_user):
        for n in (1, 2):
            add_table(add_slide(study, f"S{n}"), row_kind="spot")
        dataset, _ = freeze_dataset(job=train_job(study, make_user("admin")), params=TrainParams())
        assert dataset.same_patient and dataset.row_kind == "spot"

    def test_the_plan_of_the_study_is_said(self, study, two_patients, make_user):
        study.patients.filter(code="P1").update(part="test")
        study.patients.filter(code="P2").update(part="train")
        job = train_job(study, make_user("admin"))
        planned, tables = freeze_dataset(job=job, params=TrainParams())
        assert planned.split == "planned"
        assert {t.code: str(t.part) for t in tables} == {"S1": "test", "S2": "train"}
        assert json.loads(local(planned.artifact).read_text())["split"] == "planned"
        chosen, _ = freeze_dataset(job=job, params=TrainParams(test=["S2"]))
        assert (chosen.split, chosen.tables.get(part="test").patient.code) == ("chosen", "P2")
        study.patients.update(part="")
        drawn, _ = freeze_dataset(job=job, params=TrainParams())
        assert (drawn.split, drawn.version) == ("drawn", 3)

    def test_nothing_measured(self, study, make_user, db):
        with pytest.raises(InputError) as error:
            freeze_dataset(job=train_job(study, make_user("admin")), params=TrainParams())
        assert error.value.code == "train.nothing_measured"

    def test_ihc_and_other_studies_are_left_out(self, study, two_patients, make_study, make_user):
        add_table(add_slide(make_study(), "S9"))
        add_table(add_slide(study, "S3", patient="P3", stain="IHC"))
        dataset, _ = freeze_dataset(job=train_job(study, make_user("admin")), params=TrainParams())
        assert dataset.tables.count() == 2


def test_a_job_that_cannot_be_split_fails_as_input(run_here, study, two_patients, make_user):
    job = run_here(train_job(study, make_user("admin"), test=["S1", "S2"]))
    assert (job.status, job.failure_kind) == (Job.Status.FAILED, Job.FailureKind.INPUT)
    assert job.failure["code"] == "split.nothing_to_train_on"


def test_first_model_of_each_row_kind_is_promoted_and_later_ones_are_candidates(
    object_store, study, two_patients, tmp_path
):
    from backend.registry.training import commit_training

    def commit(row_kind, text):
        job = add_job(study, "train", status=Job.Status.RUNNING)
        dataset, _ = freeze_dataset(job=job, params=TrainParams())
        job.result = {"dataset": dataset.pk}
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "config.json").write_text(text)
        result = {"model": "model", "row_kind": row_kind, "metrics": {}, "evaluations": [],
                  "config": {"vocabulary": {"symbols": GENES}}}  # fmt: skip
        return ModelVersion.objects.get(pk=commit_training(job, result, tmp_path)["model"])

    models = [commit("cell", "a"), commit("cell", "b"), commit("spot", "c")]
    assert [m.version for m in models] == [1, 2, 3]
    assert [m.status for m in models] == ["promoted", "candidate", "promoted"]


class TestPatientMeans:
    """A patient whose slides were predicted by different jobs has the mean over all their rows."""

    def test_rows_of_all_slides_count(self, object_store, study, tmp_path, two_patients):
        from backend.registry.content import PredictedPatients
        from backend.registry.pseudobulk import put_predicted_patients
        from backend.slides.selectors import slides_of

        model = add_model(study, {two_patients[0]: "train"})
        rng = np.random.default_rng(3)
        values = {
            code: rng.uniform(0, 5, (n, 4)) for code, n in (("A1", 30), ("A2", 90), ("B1", 9))
        }
        path = tmp_path / "patients.parquet"
        for code in values:
            patient = code[0]
            table = add_table(add_slide(study, code, patient=patient), n_rows=len(values[code]),
                              symbols=[], source="nuclei:classical")  # fmt: skip
            add_layer(table, model, values[code])
            frame = pd.DataFrame([values[code].mean(0)], columns=GENES,
                                 index=pd.Index([patient], name="patient"))  # fmt: skip
            frame.astype(np.float32).to_parquet(path)
            if code == "A1":
                PatientTable.objects.all().delete()
            put_predicted_patients(
                job=add_job(study, "predict"), study=study, model=model, out=tmp_path,
                content=PredictedPatients(path="patients.parquet", columns=GENES, unit=UNIT),
                slides=list(slides_of(study).filter(code=code)),
            )  # fmt: skip
        table = PatientTable.objects.get(source="predicted")
        got = pd.read_parquet(local(table.artifact))
        assert table.n_patients == 2 and list(got.index) == ["A", "B"]
        both = np.vstack([values["A1"], values["A2"]]).mean(0)
        np.testing.assert_allclose(got.loc["A"], both, atol=0.01)
        np.testing.assert_allclose(got.loc["B"], values["B1"].mean(0), atol=1e-5)


class TestStartPrediction:
    @pytest.mark.parametrize(
        ("slides", "code"), [(["S1", "nowhere"], "predict.slide"), (["IHC"], "predict.stain")]
    )
    def test_a_slide_that_cannot_be(self, study, two_patients, make_user, slides, code):
        add_slide(study, "IHC", stain="IHC")
        model = add_model(study, {two_patients[0]: "train"})
        with pytest.raises(InputError) as error:
            start_prediction(user=make_user("admin"), study=study,
                             params={"model": model.pk, "slides": slides})  # fmt: skip
        assert error.value.code == code and not Job.objects.filter(kind="predict").exists()

    def test_a_model_of_another_study(self, study, two_patients, make_study, make_user):
        other = make_study()
        model = add_model(other, {add_table(add_slide(other)): "train"})
        with pytest.raises(InputError) as error:
            start_prediction(user=make_user("admin"), study=study,
                             params={"model": model.pk, "slides": ["S1"]})  # fmt: skip
        assert error.value.code == "predict.model"
