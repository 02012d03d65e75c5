"""Gene columns: what the Arrow stream decodes to is what the table and the layer hold."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest

from backend.cells.expression import ARROW_STREAM
from ml.io.layers import UNIT
from tests.backend.rows import GENES, add_layer, add_model, add_slide, add_table


@pytest.fixture
def member(study, make_user, client):
    user = make_user("member")
    client.force_login(user)
    return user


@pytest.fixture
def table(object_store, study):
    return add_table(add_slide(study))


def decode(response):
    assert response.status_code == 200, response.content
    assert response["Content-Type"] == ARROW_STREAM
    with pa.ipc.open_stream(response.content) as stream:
        batches = list(stream)
        assert len(batches) == 1
        metadata = {k.decode(): v.decode() for k, v in (stream.schema.metadata or {}).items()}
        return batches[0], metadata


def values(response):
    batch, metadata = decode(response)
    column = batch.column("value")
    assert column.type == pa.uint8()
    return float(metadata["offset"]) + float(metadata["scale"]) * column.to_numpy(), metadata


def expected(counts, gene, panel=GENES):
    shared = [GENES.index(symbol) for symbol in panel if symbol in GENES]
    totals = counts[:, shared].sum(axis=1)
    return np.log1p(1e4 * counts[:, GENES.index(gene)] / np.maximum(totals, 1))


def url(table, gene):
    return f"/api/v1/cell-tables/{table.pk}/expression/{gene}/"


def test_coordinates_are_the_table_s_in_row_order(member, client, table):
    from backend.cells.expression import open_table

    batch, _ = decode(client.get(f"/api/v1/cell-tables/{table.pk}/coordinates/"))
    xy = open_table(table.artifact).xy()
    assert batch.schema.field("x").type == pa.float32()
    np.testing.assert_array_equal(batch.column("x"), xy[:, 0])
    np.testing.assert_array_equal(batch.column("y"), xy[:, 1])


@pytest.mark.parametrize("gene", GENES)
def test_measured_column_decodes_to_the_table_s_values(member, client, object_store, study, gene):
    counts = np.random.default_rng(5).poisson([8, 1, 0.1, 40], (200, 4))
    counts[0] = 0
    table = add_table(add_slide(study), counts)
    got, metadata = values(client.get(url(table, gene)))
    want = expected(counts, gene)
    half_step = float(metadata["scale"]) / 2
    np.testing.assert_allclose(got, want, atol=half_step * 1.01)
    assert metadata["symbol"] == gene and metadata["origin"] == "measured"
    assert metadata["unit"] == UNIT and "model" not in metadata
    for name, number in (("min", want.min()), ("max", want.max()),
                         ("p01", np.quantile(want, 0.01, method="inverted_cdf")),
                         ("p99", np.quantile(want, 0.99, method="inverted_cdf"))):  # fmt: skip
        assert float(metadata[name]) == pytest.approx(number, abs=half_step * 1.01), name


def test_a_gene_without_counts_is_flat_zero(member, client, object_store, study):
    counts = np.tile([5, 0, 1, 2], (30, 1))
    got, metadata = values(client.get(url(add_table(add_slide(study), counts), "ESR1")))
    assert not got.any() and float(metadata["max"]) == 0 and float(metadata["scale"]) > 0


def test_with_a_layer_both_columns_share_the_unit(member, client, object_store, study):
    """The layer lacks a gene that the table has: totals are over the three they share."""
    counts = np.random.default_rng(6).poisson([8, 4, 5, 40], (300, 4))
    table = add_table(add_slide(study), counts)
    model = add_model(study, {table: "train"})
    panel = ["KRT5", "ERBB2", "ESR1", "NOT_MEASURED"]
    truth = expected(counts, "ERBB2", panel)
    noise = np.random.default_rng(7).normal(0, 0.5, len(truth))
    predicted = np.zeros((300, 4), np.float32)
    predicted[:, 1] = truth + noise
    layer = add_layer(table, model, predicted, panel)

    measured, _ = values(client.get(url(table, "ERBB2"), {"layer": layer.pk}))
    np.testing.assert_allclose(measured, truth, atol=0.03)
    assert np.abs(measured - expected(counts, "ERBB2")).max() > 0.1

    got, metadata = values(client.get(f"/api/v1/layers/{layer.pk}/expression/ERBB2/"))
    np.testing.assert_allclose(got, predicted[:, 1], atol=float(metadata["scale"]) * 0.51)
    assert (metadata["origin"], metadata["model"]) == ("predicted", "PAST v1")
    r = np.corrcoef(predicted[:, 1], truth)[0, 1]
    assert float(metadata["pearson"]) == pytest.approx(r, abs=2e-3)

    _, metadata = values(client.get(f"/api/v1/layers/{layer.pk}/expression/NOT_MEASURED/"))
    assert "pearson" not in metadata


def test_genes_and_layers_that_are_not_there(member, client, table, make_study, study):
    other = add_table(add_slide(study, "S2", patient="P2"))
    model = add_model(study, {other: "train"})
    layer = add_layer(other, model, np.ones((40, 4)))
    positions = add_table(add_slide(study, "S3"), symbols=[], source="nuclei:classical")
    for address, query in [
        (url(table, "NOPE"), {}),
        (url(positions, "ERBB2"), {}),
        (f"/api/v1/layers/{layer.pk}/expression/NOPE/", {}),
        (url(table, "ERBB2"), {"layer": layer.pk}),  # another table's layer
    ]:
        response = client.get(address, query)
        assert response.status_code == 404, address
        assert response["Content-Type"] == "application/problem+json"
    assert client.get(url(table, "ERBB2"), {"layer": "one"}).status_code == 400


def test_kept_by_the_browser_and_revalidated(member, client, table):
    first = client.get(url(table, "ERBB2"))
    assert first["Cache-Control"] == "private, no-cache"
    again = client.get(url(table, "ERBB2"), headers={"If-None-Match": first["ETag"]})
    assert again.status_code == 304 and not again.content and again["ETag"] == first["ETag"]
    other = client.get(url(table, "ESR1"), headers={"If-None-Match": first["ETag"]})
    assert other.status_code == 200

    named = client.get(url(table, "ERBB2"), {"v": table.artifact.sha256[:16]})
    assert named["Cache-Control"] == "private, max-age=31536000, immutable"
    wrong = client.get(url(table, "ERBB2"), {"v": "0" * 16})
    assert wrong["Cache-Control"] == "private, no-cache"


def test_gene_search_in_a_table(member, client, study, table):
    model = add_model(study, {table: "train"})
    layer = add_layer(table, model, np.ones((40, 2)), ["ESR1", "ESR2"])
    answer = client.get(f"/api/v1/cell-tables/{table.pk}/genes/", {"search": "esr"}).json()
    assert answer == {
        "total": 2,
        "genes": [
            {"symbol": "ESR1", "measured": True, "layers": [layer.pk]},
            {"symbol": "ESR2", "measured": False, "layers": [layer.pk]},
        ],
    }
    short = client.get(f"/api/v1/cell-tables/{table.pk}/genes/", {"limit": 2}).json()
    assert short["total"] == 5 and len(short["genes"]) == 2


def test_gene_search_in_a_study(member, client, study, table):
    add_table(add_slide(study, "S2"), symbols=["CD3E", "CD3D"])
    layer_table = add_table(add_slide(study, "S3"), symbols=[], source="grid")
    add_layer(layer_table, add_model(study, {table: "train"}), np.ones((40, 1)), ["CD3"])
    assert client.get("/api/v1/studies/study/genes/", {"search": "CD3"}).json() == [
        {"symbol": "CD3", "measured": False, "predicted": True},
        {"symbol": "CD3D", "measured": True, "predicted": False},
        {"symbol": "CD3E", "measured": True, "predicted": False},
    ]


def test_a_column_takes_few_queries_however_many_cells(
    member, client, table, django_assert_max_num_queries
):
    with django_assert_max_num_queries(3):  # session, user, table
        client.get(url(table, "ERBB2"))


def test_a_gene_of_a_million_cells(member, client, object_store, study):
    """60 ms is the target, measured by the benchmark; here the order of magnitude is guarded."""
    from scipy import sparse

    counts = sparse.random(1_000_000, 4, 0.15, "csr", random_state=1, dtype=np.float32)
    counts.data = np.ceil(counts.data * 20)
    table = add_table(add_slide(study), counts, symbols=GENES)
    values = np.random.default_rng(0).random((1_000_000, 3), np.float32)
    layer = add_layer(table, add_model(study, {table: "train"}), values, GENES[:3])
    for address in (url(table, "{}"), f"/api/v1/layers/{layer.pk}/expression/{{}}/"):
        client.get(address.format(GENES[0]))  # opens the table and the layer
        took = []
        for gene in (*GENES[1:3], *GENES[1:3]):
            start = time.perf_counter()
            response = client.get(address.format(gene))
            took.append(time.perf_counter() - start)
            assert len(response.content) > 1_000_000
        print(f"one gene of 1,000,000 cells: {[round(t * 1000) for t in took]} ms")
        assert min(took) < 0.3
