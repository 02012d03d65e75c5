"""Reading real files: her2st, TCGA KIRC, an SVS, an OME-TIFF."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pytest

from ml.errors import InputError
from ml.io.celltable import CellTable
from ml.io.slides import SlideReader, open_slide, verify_slide
from ml.io.study import run_import
from ml.report import ConsoleReport

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def data() -> Path:
    return Path(os.environ["PAST_REAL_DATA"])


@pytest.fixture(scope="module")
def her2st(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("her2st")
    return out, run_import({"format": "auto"}, {"path": str(data / "her2st")}, out, ConsoleReport())


def test_her2st_sections(her2st: tuple[Path, dict]) -> None:
    _, result = her2st
    assert [s["code"] for s in result["slides"]] == ["C2", "C4", "C5", "C6"]
    for slide in result["slides"]:
        assert slide["info"]["mpp"] == pytest.approx(0.688, abs=0.002)
        assert slide["info"]["mpp_source"] == "200 µm spot pitch"
        assert 175 <= slide["cells"]["n_rows"] <= 187
        assert 15_000 < slide["cells"]["n_genes"] < 16_500


def test_her2st_spots_lie_on_tissue(her2st: tuple[Path, dict]) -> None:
    """Tissue is darker than glass: under the spots, but not under the spots mirrored."""
    out, result = her2st
    for slide in result["slides"]:
        reader = open_slide(out / slide["file"])
        xy = CellTable.open(out / slide["cells"]["path"]).xy()
        mirrored = np.stack([reader.info.width - xy[:, 0], xy[:, 1]], axis=1)
        assert np.mean(brightness(reader, xy) < 200) > 0.95
        assert np.mean(brightness(reader, mirrored) < 200) < 0.8


def brightness(reader: SlideReader, xy: np.ndarray) -> np.ndarray:
    return np.array([reader.region(x - 70, y - 70, 140, 140).mean() for x, y in xy])


def test_her2st_table_opens_in_anndata(her2st: tuple[Path, dict]) -> None:
    out, result = her2st
    path = out / result["slides"][0]["cells"]["path"]
    opened, table = anndata.read_zarr(path), CellTable.open(path)
    column = opened[:, "ERBB2"].X.toarray().ravel()
    np.testing.assert_array_equal(table.gene_counts("ERBB2"), column)
    assert column.sum() > 1000


def test_kirc(data: Path, tmp_path: Path) -> None:
    result = run_import(
        {"format": "auto"}, {"path": str(data / "survival")}, tmp_path, ConsoleReport()
    )
    assert len(result["patients"]) == 345
    assert sum(o["cause"] for o in result["outcomes"]) == 92
    (table,) = result["patient_tables"]
    assert (len(table["columns"]), table["n_patients"]) == (1556, 345)


@pytest.mark.parametrize(
    ("name", "size", "mpp"),
    [
        ("CMU-1-Small-Region.svs", (2220, 2967), 0.499),
        ("instanseg_HE_example.ome.tif", (1380, 1484), 0.5),
    ],
)
def test_scanner_formats(
    data: Path, tmp_path: Path, name: str, size: tuple[int, int], mpp: float
) -> None:
    path = data / "slides" / name
    verify_slide(path)
    info = open_slide(path).info
    assert (info.width, info.height) == size
    assert info.mpp == pytest.approx(mpp, rel=1e-3)
    cut = tmp_path / name
    cut.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    with pytest.raises(InputError) as caught:
        verify_slide(cut)
    assert caught.value.code == "slide.truncated"
