from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from scipy import sparse

from ml.errors import InputError
from ml.io.celltable import CellTable, is_counts, panel_hash, write_cell_table

SYMBOLS = [f"G{i}" for i in range(12)]


@pytest.fixture(scope="module")
def counts() -> sparse.csr_matrix:
    dense = np.random.default_rng(0).poisson(0.7, (300, 12))
    dense[7] = 0
    dense[:, 5] = 0
    dense[3, 2] = 70_000
    return sparse.csr_matrix(dense)


def write(path: Path, counts: Any, **changes: Any) -> None:
    n, genes = counts.shape
    given: dict[str, Any] = {
        "counts": counts,
        "symbols": SYMBOLS[:genes],
        "gene_ids": ["ENSG1"] + [""] * (genes - 1) if genes else [],
        "xy": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        "obs_names": [f"cell {i}" for i in range(n)],
        "row_kind": "spot",
        "spot_diameter_um": 55.0,
        "source": "measured",
    }
    write_cell_table(path, **{**given, **changes})


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, counts: sparse.csr_matrix) -> CellTable:
    path = tmp_path_factory.mktemp("tables") / "t.zarr"
    write(path, counts)
    return CellTable.open(path)


def test_anndata_opens_it(table: CellTable, counts: sparse.csr_matrix) -> None:
    opened = anndata.read_zarr(table.path)
    assert (counts != opened.X).nnz == 0
    assert opened.layers["by_gene"].format == "csc"
    assert (opened.layers["by_gene"] != counts).nnz == 0
    assert opened.var_names.tolist() == SYMBOLS
    assert opened.var["gene_id"].tolist()[:2] == ["ENSG1", ""]
    assert opened.obs_names[2] == "cell 2"
    assert opened.uns["past"]["row_kind"] == "spot"
    np.testing.assert_array_equal(opened.obsm["spatial"], table.xy())


def test_what_it_says_of_itself(table: CellTable) -> None:
    assert (table.n_rows, table.n_genes, table.symbols) == (300, 12, SYMBOLS)
    assert (table.row_kind, table.spot_diameter_um, table.source) == ("spot", 55.0, "measured")
    assert table.panel_hash == panel_hash(SYMBOLS) != panel_hash(SYMBOLS[::-1])


def test_counts_by_gene_and_by_row(table: CellTable, counts: sparse.csr_matrix) -> None:
    dense = counts.toarray()
    for column, symbol in enumerate(SYMBOLS):
        np.testing.assert_array_equal(table.gene_counts(symbol), dense[:, column])
    assert (table.counts() != counts).nnz == 0
    np.testing.assert_array_equal(table.totals(), dense.sum(axis=1))
    row = table.row(3)
    assert row["counts"] == {s: n for s, n in zip(SYMBOLS, dense[3], strict=True) if n}
    assert (row["name"], row["x"], row["y"]) == ("cell 3", 6.0, 7.0)
    assert row["total_counts"] == dense[3].sum()


def test_expression_is_log1p_of_counts_per_10000(
    table: CellTable, counts: sparse.csr_matrix
) -> None:
    dense = counts.toarray()
    totals = np.maximum(dense.sum(axis=1), 1)
    np.testing.assert_allclose(
        table.expression("G2"), np.log1p(1e4 * dense[:, 2] / totals), rtol=1e-5
    )
    assert table.expression("G2")[7] == 0


def test_expression_over_a_shared_panel(table: CellTable, counts: sparse.csr_matrix) -> None:
    panel = ["G1", "G2", "G9", "NOT_HERE"]
    totals = np.maximum(counts.toarray()[:, [1, 2, 9]].sum(axis=1), 1)
    expected = np.log1p(1e4 * counts.toarray()[:, 2] / totals)
    np.testing.assert_allclose(table.expression("G2", panel=panel), expected, rtol=1e-5)
    np.testing.assert_array_equal(
        table.expression("G2", panel=[*SYMBOLS, "MORE"]), table.expression("G2")
    )


def test_labels_that_rows_came_with(tmp_path: Path, counts: sparse.csr_matrix) -> None:
    given = ["T cell", "", "B cell"] * 100
    write(tmp_path / "l.zarr", counts, cell_types=given)
    table = CellTable.open(tmp_path / "l.zarr")
    labels = table.labels()
    assert labels is not None
    codes, names = labels
    assert (codes.dtype, names) == (np.int32, ["B cell", "T cell"])
    assert [names[c] if c >= 0 else "" for c in codes] == given
    kept = anndata.read_zarr(table.path).obs["cell_type"]
    assert kept.isna().sum() == 100
    assert table.labels("another") is None
    write(tmp_path / "u.zarr", counts, cell_types=[""] * 300)
    assert CellTable.open(tmp_path / "u.zarr").labels() is None
    with pytest.raises(ValueError, match="one label per row"):
        write(tmp_path / "w.zarr", counts, cell_types=["T cell"])


def test_positions_only(tmp_path: Path) -> None:
    write(tmp_path / "p.zarr", sparse.csr_matrix((4, 0)), row_kind="cell", spot_diameter_um=None)
    table = CellTable.open(tmp_path / "p.zarr")
    assert (table.n_genes, table.symbols, table.panel_hash) == (0, [], "")
    assert table.xy().shape == (4, 2)
    assert table.counts().shape == (4, 0)
    assert anndata.read_zarr(table.path).shape == (4, 0)


def test_more_counts_than_one_chunk_and_shard(tmp_path: Path) -> None:
    counts = sparse.random(40_000, 12, 0.4, "csr", random_state=1)
    counts.data = np.ceil(counts.data * 9)
    write(tmp_path / "b.zarr", counts)
    table = CellTable.open(tmp_path / "b.zarr")
    for symbol in ("G0", "G4", "G11"):
        column = counts[:, SYMBOLS.index(symbol)].toarray().ravel()
        np.testing.assert_array_equal(table.gene_counts(symbol), column)
    assert table.row(39_999)["total_counts"] == counts[39_999].sum()


def test_unknown_gene_and_row(table: CellTable) -> None:
    with pytest.raises(InputError) as caught:
        table.expression("HER2")
    assert caught.value.code == "gene.unknown"
    with pytest.raises(IndexError):
        table.gene_counts(12)
    with pytest.raises(IndexError):
        table.row(300)


def test_rewritten_table_is_opened_anew(tmp_path: Path, counts: sparse.csr_matrix) -> None:
    write(tmp_path / "t.zarr", counts)
    assert CellTable.open(tmp_path / "t.zarr") is CellTable.open(tmp_path / "t.zarr")
    write(tmp_path / "t.zarr", counts[:5])
    assert CellTable.open(tmp_path / "t.zarr").n_rows == 5
    assert [p.name for p in tmp_path.iterdir()] == ["t.zarr"]


@pytest.mark.parametrize(
    "changes",
    [
        {"symbols": ["G0"] * 12},
        {"symbols": SYMBOLS[:3]},
        {"xy": np.zeros((3, 2), np.float32)},
        {"xy": np.full((300, 2), np.nan, np.float32)},
        {"obs_names": ["a"]},
        {"row_kind": "bead"},
        {"spot_diameter_um": None},
        {"counts": sparse.csr_matrix(np.full((300, 12), 0.5))},
        {"counts": sparse.csr_matrix(np.full((300, 12), -1))},
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, counts: sparse.csr_matrix, changes: dict[str, object]
) -> None:
    with pytest.raises(ValueError):
        write(tmp_path / "t.zarr", **{"counts": counts, **changes})
    assert not list(tmp_path.iterdir())


def test_not_a_table(tmp_path: Path) -> None:
    for name in ("none", "."):
        with pytest.raises(InputError) as caught:
            CellTable.open(tmp_path / name)
        assert caught.value.code == "table.unreadable"


def test_is_counts() -> None:
    assert is_counts(np.array([0.0, 3.0]))
    assert is_counts(np.array([], np.float32))
    assert not is_counts(np.array([0.5]))
    assert not is_counts(np.array([-1]))
    assert not is_counts(np.array([np.nan]))
    assert not is_counts(np.array([np.inf]))
    assert not is_counts(np.array([2**32]))
