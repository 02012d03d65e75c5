"""Types and trust of rows: stored with a prediction, served as columns to whom they may be."""

import json

import numpy as np
import pyarrow as pa
import pytest

from backend.cells.models import Layer
from backend.cells.services import add_layer
from ml.io.annotations import write_cell_types, write_trust
from tests.backend.rows import add_model, add_slide, add_table

LABELS = ["tumour", "", "T cell"]


def columns(response):
    assert response.status_code == 200, response.content
    with pa.ipc.open_stream(response.content) as stream:
        table = stream.read_all()
    found = {name: table[name].to_numpy() for name in table.column_names}
    return found, {k.decode(): v.decode() for k, v in table.schema.metadata.items()}


@pytest.fixture
def member(study, make_user, client):
    client.force_login(make_user("member"))
    return client


@pytest.fixture
def table(object_store, study):
    return add_table(add_slide(study), n_rows=3, cell_types=LABELS)


@pytest.fixture
def layers(table, tmp_path):
    """A model's types and trust of the table's three rows."""
    model = add_model(table.slide.study, {table: "test"})
    about = {"table_sha256": table.artifact.sha256, "model_sha256": model.artifact.sha256}
    types, trust = tmp_path / "types.zarr", tmp_path / "trust.zarr"
    write_cell_types(
        types, codes=np.array([1, -1, 0]), probability=np.array([0.9, 0.4, 1.0]),
        types=["T cell", "tumour"], abstain_below=0.5, **about,
    )  # fmt: skip
    write_trust(trust, ood=np.array([3, 127, 200], np.uint8), threshold=4.0, **about)
    return {
        kind: add_layer(
            job=model.job, table=table, model_artifact=model.artifact, kind=kind, path=path
        )
        for kind, path in ((Layer.Kind.CELL_TYPE, types), (Layer.Kind.TRUST, trust))
    }


def test_types_that_came_with_the_rows(table, member):
    url = f"/api/v1/cell-tables/{table.pk}/cell-types/"
    response = member.get(url)
    found, about = columns(response)
    names = json.loads(about["types"])
    assert [names[c] if c < 255 else "" for c in found["codes"]] == LABELS
    assert found["codes"].dtype == np.uint8 and about["origin"] == "annotated"
    assert member.get(url, headers={"If-None-Match": response["ETag"]}).status_code == 304


def test_types_and_trust_of_a_model(layers, member):
    types, trust = (layers[kind].pk for kind in (Layer.Kind.CELL_TYPE, Layer.Kind.TRUST))
    found, about = columns(member.get(f"/api/v1/layers/{types}/annotations/"))
    assert found["codes"].tolist() == [1, 255, 0]
    assert found["probability"].tolist() == [230, 102, 255]
    assert about["origin"] == "predicted" and json.loads(about["types"]) == ["T cell", "tumour"]
    assert float(about["abstain_below"]) == 0.5 and about["method"] == "probe"
    found, about = columns(member.get(f"/api/v1/layers/{trust}/annotations/"))
    assert found["ood"].tolist() == [3, 127, 200] and float(about["threshold"]) == 4.0


def test_annotations_are_no_expression(layers, member):
    pk = layers[Layer.Kind.CELL_TYPE].pk
    assert member.get(f"/api/v1/layers/{pk}/expression/ERBB2/").status_code == 404
    assert member.get("/api/v1/layers/999999/annotations/").status_code == 404


def test_a_table_without_labels_has_none(object_store, study, member):
    plain = add_table(add_slide(study, "S2"))
    assert member.get(f"/api/v1/cell-tables/{plain.pk}/cell-types/").status_code == 404
    (found,) = member.get(f"/api/v1/slides/{plain.slide_id}/").json()["tables"]
    assert found["annotated"] is False


def test_more_types_than_a_byte_tells_apart_are_not_offered(object_store, study, member):
    names = [f"type {i}" for i in range(256)]
    table = add_table(add_slide(study, "S3"), n_rows=256, cell_types=names)
    assert member.get(f"/api/v1/cell-tables/{table.pk}/cell-types/").status_code == 404
    (found,) = member.get(f"/api/v1/slides/{table.slide_id}/").json()["tables"]
    assert found["annotated"] is False


def test_strangers_see_nothing(table, layers, make_user, client):
    client.force_login(make_user())
    for url in (
        f"/api/v1/cell-tables/{table.pk}/cell-types/",
        f"/api/v1/layers/{layers[Layer.Kind.TRUST].pk}/annotations/",
    ):
        assert client.get(url).status_code == 404


def test_the_slide_says_what_there_is(table, layers, member):
    (found,) = member.get(f"/api/v1/slides/{table.slide_id}/").json()["tables"]
    assert found["annotated"] is True
    assert {layer["kind"] for layer in found["layers"]} == {"cell_type", "trust"}
    assert all(layer["intervals"] is None for layer in found["layers"])


def test_a_later_layer_of_the_model_replaces_the_earlier(table, layers, tmp_path):
    earlier = layers[Layer.Kind.TRUST]
    path = tmp_path / "later.zarr"
    write_trust(path, ood=np.ones(3, np.uint8), threshold=1.0, table_sha256="t", model_sha256="m")
    later = add_layer(
        job=table.slide.study.jobs.first(), table=table, model_artifact=earlier.model_artifact,
        kind=Layer.Kind.TRUST, path=path,
    )  # fmt: skip
    assert [layer.pk for layer in table.layers.filter(kind=Layer.Kind.TRUST)] == [later.pk]
