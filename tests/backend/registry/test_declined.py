"""Slides that a model declines: noted, without a layer, left out of means, undone later."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from backend.accounts.models import AuditEvent
from backend.cells.models import Layer
from backend.jobs.models import Artifact
from backend.jobs.services import local
from backend.registry.content import PredictedSlide
from backend.registry.models import Declined, PatientTable
from backend.registry.planted import declined_on
from backend.registry.predictions import commit_prediction
from backend.registry.slide_selectors import study_slides
from backend.slides.models import Slide
from ml.errors import InputError
from ml.io.annotations import write_cell_types, write_trust
from ml.io.celltable import panel_hash
from ml.io.layers import UNIT, LayerWriter
from tests.backend.rows import GENES, add_job, add_model, add_slide, add_table

N_ROWS = 12


@pytest.fixture
def model(object_store, study):
    trained = add_table(add_slide(study, "T1", patient="T"))
    model = add_model(study, {trained: "train"})
    model.metrics["ood"] = {"threshold": 3.1, "quantile": 0.99, "decline_above": 0.5}
    model.save()
    return model


@pytest.fixture
def tables(model, study):
    """Positions of two slides of patient A and one of patient B."""
    return {
        code: add_table(add_slide(study, code, patient=code[0]), n_rows=N_ROWS, symbols=[],
                        source="nuclei:classical")
        for code in ("A1", "A2", "B1")
    }  # fmt: skip


@pytest.fixture
def predict(study, model, tables, tmp_path):
    """`predict(A1=0.1, B1=0.9)`: a job whose slides have these shares unlike the training, and
    whose predictions are the number in the slide's code."""

    def run(annotated: bool = False, rows: int = N_ROWS, **shares: float):
        slides, values = [], defaultdict(list)
        for code, share in shares.items():
            declined, value = share > 0.5, float(code[1:])
            if not declined:
                values[code[0]].append(value)
                _write_layer(tmp_path / f"{code}.zarr", tables[code], model, value)
            slides.append({
                "slide_code": code, "table": None, "n_rows": N_ROWS, "unit": UNIT,
                "layer": None if declined else f"{code}.zarr", "panel_hash": panel_hash(GENES),
                "ood_share": share, "declined": declined,
                "annotations": _write_annotations(
                    tmp_path, code, tables[code], model, declined, rows
                ) if annotated else {},
            })  # fmt: skip
        means = {patient: np.mean(found) for patient, found in values.items()}
        frame = pd.DataFrame(dict.fromkeys(GENES, means), dtype=np.float32)
        frame.rename_axis("patient").to_parquet(tmp_path / "patients.parquet")
        job = add_job(study, "predict", parameters={"model": model.pk, "slides": list(shares)})
        patients = {"path": "patients.parquet", "columns": GENES, "unit": UNIT} if means else None
        result = {"slides": slides, "patient_table": patients, "seconds": 1, "rows_per_s": 1}
        return job, commit_prediction(job, result, tmp_path)

    return run


def _write_layer(path, table, model, value):
    with LayerWriter(
        path, symbols=GENES, n_rows=N_ROWS, unit=UNIT, table_sha256=table.artifact.sha256,
        model_sha256=model.artifact.sha256,
    ) as layer:  # fmt: skip
        layer.append(np.full((N_ROWS, len(GENES)), value, np.float32))


def _write_annotations(folder, code, table, model, declined, rows):
    """Trust of every row, and types where the model did not decline the slide."""
    about = {"table_sha256": table.artifact.sha256, "model_sha256": model.artifact.sha256}
    trust, types = f"{code}-trust.zarr", f"{code}-types.zarr"
    write_trust(folder / trust, ood=np.full(rows, 200, np.uint8), threshold=3.1, **about)
    if not declined:
        write_cell_types(
            folder / types, codes=np.zeros(rows, int), probability=np.ones(rows),
            types=["tumour"], abstain_below=0.5, **about,
        )  # fmt: skip
    return {"trust": trust, "cell_type": None if declined else types}


def kinds_on(code: str) -> set[str]:
    return set(Layer.objects.filter(table__slide__code=code).values_list("kind", flat=True))


def means() -> dict[str, float]:
    table = PatientTable.objects.get(source="predicted")
    frame = pd.read_parquet(local(table.artifact))
    assert table.n_patients == len(frame)
    return frame["ERBB2"].round(2).to_dict()


def layers_of(model) -> set[str]:
    found = Layer.objects.filter(model_artifact=model.artifact)
    return set(found.values_list("table__slide__code", flat=True))


def test_a_declined_slide_is_noted_and_has_no_layer(model, study, predict):
    job, result = predict(A1=0.1, B1=0.9)
    assert layers_of(model) == {"A1"} and means() == {"A": 1}
    noted = Declined.objects.get()
    assert (noted.slide.code, noted.model_artifact, noted.job) == ("B1", model.artifact, job)
    assert (noted.share, noted.threshold) == (0.9, 0.5)
    assert result["declined"] == [{"slide": "B1", "share": 0.9, "threshold": 0.5}]
    assert result["rows"] == N_ROWS
    assert [link["label"] for link in result["links"]] == ["Slide A1", "Slide B1"]
    assert AuditEvent.objects.get(action="predict.save").detail["declined"] == ["B1"]
    (told,) = declined_on(study.slides.all())[noted.slide_id]
    assert told["model"] == {"id": model.pk, "name": "PAST v1", "version": 1}
    assert (told["share"], told["threshold"], told["job"]) == (0.9, 0.5, job.pk)


def test_types_and_trust_follow_what_the_model_last_said(predict):
    predict(annotated=True, A1=0.1, B1=0.9)
    assert kinds_on("A1") == {"expression", "cell_type", "trust"} and kinds_on("B1") == {"trust"}
    predict(annotated=True, A1=0.9, B1=0.1)
    assert kinds_on("A1") == {"trust"} and kinds_on("B1") == {"expression", "cell_type", "trust"}
    predict(A1=0.9, B1=0.1)
    assert kinds_on("A1") == set() and kinds_on("B1") == {"expression"}


def test_annotations_of_other_rows_are_refused(predict):
    with pytest.raises(InputError) as caught:
        predict(annotated=True, rows=N_ROWS - 1, A1=0.1)
    assert caught.value.code == "predict.annotations_mismatch" and "'A1'" in caught.value.where


def test_a_declined_slide_with_trust_is_not_listed_as_predicted(make_user, study, predict):
    predict(annotated=True, A1=0.1, B1=0.9)
    listed = {slide["code"]: slide for slide in study_slides(study, make_user("admin"))}
    assert listed["A1"]["predicted"] == ["PAST v1"] and listed["A1"]["declined"] == []
    assert listed["B1"]["predicted"] == []
    assert [by["model"] for by in listed["B1"]["declined"]] == ["PAST v1"]


def test_every_slide_declined(model, predict):
    _, result = predict(A1=0.6, B1=1.0)
    assert (result["rows"], len(result["declined"])) == (0, 2)
    assert not layers_of(model) and not PatientTable.objects.exists()
    assert Declined.objects.count() == 2


def test_a_later_prediction_of_the_same_model_undoes_it(model, predict):
    predict(B1=0.9)
    predict(B1=0.8)
    assert Declined.objects.get().share == 0.8
    predict(B1=0.2)
    assert not Declined.objects.exists() and layers_of(model) == {"B1"} and means() == {"B": 1}


def test_another_model_s_word_stands(study, model, tables, predict):
    other = add_model(study, {tables["A1"]: "train"})
    Declined.objects.create(
        slide=tables["B1"].slide, model_artifact=other.artifact, share=0.7, threshold=0.5
    )
    predict(B1=0.2)
    assert Declined.objects.get().model_artifact == other.artifact


def test_what_the_model_said_before_goes_with_its_share_of_the_means(model, predict):
    predict(A1=0, A2=0, B1=0)
    assert means() == {"A": 1.5, "B": 1}
    predict(A2=0.9, B1=0.9)
    assert layers_of(model) == {"A1"} and means() == {"A": 1}


def test_rows_found_on_a_declined_slide_are_kept(study, model, tmp_path):
    slide = add_slide(study, "C1", patient="C")
    found = add_table(add_slide(study, "X1", patient="X"), n_rows=N_ROWS, symbols=[])
    table = {"path": "found.zarr", "n_rows": N_ROWS, "row_kind": "cell", "source": "nuclei:x"}
    (tmp_path / "found.zarr").symlink_to(local(found.artifact))
    job = add_job(study, "predict", parameters={"model": model.pk, "slides": ["C1"]})
    commit_prediction(job, {
        "slides": [{"slide_code": "C1", "table": table, "layer": None, "unit": UNIT,
                    "panel_hash": "", "n_rows": N_ROWS, "ood_share": 1.0, "declined": True}],
        "patient_table": None, "seconds": 1, "rows_per_s": 1,
    }, tmp_path)  # fmt: skip
    assert slide.cell_tables.get().source == "nuclei:x"
    assert not slide.cell_tables.get().layers.exists()


@pytest.mark.parametrize(
    "wrong",
    [{"declined": True}, {"layer": None}, {"layer": None, "declined": True, "ood_share": None}],
)
def test_a_layer_or_a_share_that_says_why_not(wrong):
    right = {"slide_code": "S", "table": None, "layer": "l", "unit": UNIT, "panel_hash": "",
             "n_rows": 1, "ood_share": 0.1}  # fmt: skip
    PredictedSlide.model_validate(right)
    with pytest.raises(ValidationError, match="says why"):
        PredictedSlide.model_validate(right | wrong)


def test_a_slide_that_is_deleted_takes_the_note_along(model, predict):
    predict(B1=0.9)
    Slide.objects.get(code="B1").delete()
    assert not Declined.objects.exists() and Artifact.objects.filter(pk=model.artifact_id).exists()
