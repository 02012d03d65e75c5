from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ml.errors import InputError
from ml.io.celltable import CellTable
from ml.io.slides import open_slide
from ml.io.store import content_hash
from ml.io.study import convert_study, detect_format, read_study, run_import
from ml.report import ConsoleReport
from tests.ml.io.conftest import (
    HEIGHT,
    SYMBOLS,
    WIDTH,
    counts_and_positions,
    picture,
    write_cells,
)

Change = Callable[[str, str, str], None]


def test_read(study: Path) -> None:
    content = read_study(study)
    assert [p.clinical for p in content.patients] == [{"age": 61.5, "grade": "2"}, {}]
    first, second = content.outcomes
    assert (first.entry, first.time, first.cause) == (0, 12.5, 1)
    assert (second.entry, second.time, second.cause) == (2, 30, 0)
    measured, plain = content.slides
    assert (measured.mpp, measured.mpp_source) == (0.5, "a ruler")
    assert (plain.mpp, plain.mpp_source) == (0.5, "given in slides.csv")
    assert (measured.specimen, plain.specimen) == ("P1-T", "P2-1")
    assert [(s.patient, s.specimen) for s in content.specimens] == [("P1", "P1-T"), ("P2", "P2-1")]
    assert (measured.row_kind, measured.spot_diameter_um) == ("spot", 55.0)
    assert [t.name for t in content.patient_tables] == ["Bulk"]


def test_a_study_of_patients_only(study: Path) -> None:
    for name in ("outcomes.csv", "specimens.csv", "slides.csv"):
        (study / name).unlink()
    content = read_study(study)
    assert (len(content.patients), content.slides, content.outcomes) == (2, [], [])


def test_spreadsheet_csv_with_byte_order_mark_and_blank_lines(study: Path) -> None:
    text = (study / "patients.csv").read_text()
    (study / "patients.csv").write_bytes(
        ("\ufeff" + text.replace("\n", "\r\n") + ",,,\r\n").encode()
    )
    assert len(read_study(study).patients) == 2


def test_convert(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    result = convert_study(study, out, ConsoleReport())
    json.dumps(result)
    assert result["study"]["slug"] == "small"
    assert result["patients"][0] == {
        "code": "P1",
        "site": "A",
        "clinical": {"age": 61.5, "grade": "2"},
        "part": "",
    }
    assert result["outcomes"][1]["entry"] == 2
    measured, plain = result["slides"]
    assert measured["file"] == "slides/S1.tif"
    assert (out / measured["file"]).read_bytes() == (study / "s1.tif").read_bytes()
    assert measured["info"]["mpp_source"] == "a ruler"
    assert plain["info"] == {
        "width": WIDTH, "height": HEIGHT, "levels": 3, "tile_size": 256, "mpp": 0.5,
        "mpp_source": "given in slides.csv", "objective": None,
    }  # fmt: skip
    region = open_slide(out / plain["file"]).region(0, 0, WIDTH, HEIGHT)
    assert np.abs(region.astype(int) - picture(seed=1)).mean() < 3
    assert Image.open(out / plain["thumbnail"]).size == (512, 366)
    assert plain["cells"] is None
    counts, xy = counts_and_positions()
    assert {k: measured["cells"][k] for k in ("n_rows", "n_genes", "row_kind", "source")} == {
        "n_rows": 20, "n_genes": 5, "row_kind": "spot", "source": "measured",
    }  # fmt: skip
    table = CellTable.open(out / measured["cells"]["path"])
    np.testing.assert_array_equal(table.xy(), xy)
    np.testing.assert_array_equal(table.counts().toarray(), counts)
    assert not list(study.glob(".*"))


def test_patient_tables_of_a_conversion(study: Path, tmp_path: Path) -> None:
    result = convert_study(study, tmp_path / "out", ConsoleReport())
    bulk, measured = result["patient_tables"]
    assert (bulk["name"], bulk["unit"], bulk["columns"]) == ("Bulk", "z-score", ["TP53"])
    assert (measured["columns"], measured["n_patients"]) == (SYMBOLS, 1)
    frame = pd.read_parquet(tmp_path / "out" / measured["path"])
    counts, _ = counts_and_positions()
    expected = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(frame.loc["P1"], expected, rtol=1e-5)


def test_patient_means_pool_rows_over_the_genes_that_tables_share(
    study: Path, change: Change, tmp_path: Path
) -> None:
    counts, _ = counts_and_positions()
    more, more_xy = counts_and_positions(rows=7, seed=1)
    more[2] = 0
    write_cells(study / "s2.h5ad", more[:, 1:], more_xy, SYMBOLS[1:])
    change("slides.csv", "S2,P2,,s2.jpg,0.5,,,", "S2,P1,,s2.jpg,0.5,s2.h5ad,spot,55")
    result = convert_study(study, tmp_path / "out", ConsoleReport())
    frame = pd.read_parquet(tmp_path / "out" / result["patient_tables"][1]["path"])
    assert frame.columns.tolist() == SYMBOLS[1:]
    rows = np.vstack([counts[:, 1:], more[:, 1:]])
    expected = np.log1p(1e4 * rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)).mean(axis=0)
    np.testing.assert_allclose(frame.loc["P1"], expected, rtol=1e-5)


@pytest.mark.parametrize("categorical", [True, False])
def test_cell_types_are_kept(study: Path, tmp_path: Path, categorical: bool) -> None:
    given = ["T cell", " tumour ", ""] * 6 + ["T cell", None]
    source = anndata.read_h5ad(study / "s1.h5ad")
    source.obs["cell_type"] = pd.Categorical(given) if categorical else [g or "" for g in given]
    source.write_h5ad(study / "s1.h5ad")
    result = convert_study(study, tmp_path / "out", ConsoleReport())
    path = tmp_path / "out" / result["slides"][0]["cells"]["path"]
    labels = CellTable.open(path).labels()
    assert labels is not None
    codes, names = labels
    assert names == ["T cell", "tumour"]
    assert codes.tolist() == [0, 1, -1] * 6 + [0, -1]


def test_no_cell_types_are_no_labels(study: Path, tmp_path: Path) -> None:
    result = convert_study(study, tmp_path / "out", ConsoleReport())
    table = CellTable.open(tmp_path / "out" / result["slides"][0]["cells"]["path"])
    assert table.labels() is None


def test_positions_without_genes(study: Path, tmp_path: Path) -> None:
    _, xy = counts_and_positions()
    write_cells(study / "s1.h5ad", np.zeros((20, 0)), xy, [])
    result = convert_study(study, tmp_path / "out", ConsoleReport())
    assert result["slides"][0]["cells"]["n_genes"] == 0
    assert [t["name"] for t in result["patient_tables"]] == ["Bulk"]


def test_our_own_cell_table_may_be_imported_again(
    study: Path, change: Change, tmp_path: Path
) -> None:
    first = convert_study(study, tmp_path / "first", ConsoleReport())
    (tmp_path / "first" / first["slides"][0]["cells"]["path"]).rename(study / "s1.zarr")
    change("slides.csv", "s1.h5ad", "s1.zarr")
    second = convert_study(study, tmp_path / "second", ConsoleReport())
    assert second["slides"][0]["cells"] == first["slides"][0]["cells"]


def test_run_import_finds_the_format(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    result = run_import({"format": "auto"}, {"path": str(study)}, out, ConsoleReport())
    assert len(result["slides"]) == 2
    with pytest.raises(InputError) as caught:
        run_import({"format": "dicom"}, {"path": str(study)}, out, ConsoleReport())
    assert caught.value.code == "import.unknown_format"
    with pytest.raises(InputError) as caught:
        detect_format(out)
    assert caught.value.code == "import.unknown_format"


def test_the_same_study_gives_the_same_content(study: Path, tmp_path: Path) -> None:
    """Artifacts are named by their content: importing twice must not store twice."""
    first, second = (convert_study(study, tmp_path / n, ConsoleReport()) for n in ("a", "b"))
    assert first == second
    paths = [first["slides"][1]["file"], first["slides"][1]["thumbnail"]]
    paths += [first["slides"][0]["cells"]["path"], first["patient_tables"][1]["path"]]
    for path in paths:
        assert content_hash(tmp_path / "a" / path) == content_hash(tmp_path / "b" / path)
