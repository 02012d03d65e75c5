"""A small but complete study folder that each test may spoil in its own way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

from ml.io.slides import write_pyramid

WIDTH, HEIGHT = 700, 500
SYMBOLS = ["ERBB2", "ESR1", "CD3D", "MKI67", "ACTA2"]
HEAD = {
    "slug": "small",
    "name": "Small study",
    "endpoints": [
        {"code": "OS", "label": "Overall survival", "time_zero": "diagnosis",
         "causes": {"1": "death", "2": "death of another cause"}},
    ],
    "clinical": [
        {"name": "age", "label": "Age", "kind": "number", "unit": "years"},
        {"name": "grade", "label": "Grade", "kind": "category", "levels": ["1", "2", "3"]},
    ],
}  # fmt: skip


def picture(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> np.ndarray:
    """Smooth colour, so that JPEG hardly changes it; every place is different."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 37 + seed), np.cos(y / 29), np.sin((x + y) / 53)]
    return np.stack([(128 + 90 * w).astype(np.uint8) for w in waves], axis=2)


def write_cells(path: Path, counts: np.ndarray, xy: np.ndarray, symbols: list[str]) -> None:
    table = anndata.AnnData(
        X=sparse.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(index=[f"s{i}" for i in range(len(xy))]),
        var=pd.DataFrame(index=symbols),
        obsm={"spatial": xy},
    )
    table.write_h5ad(path)


def counts_and_positions(rows: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    counts = random.poisson(2, (rows, len(SYMBOLS)))
    return counts, random.uniform(0, [WIDTH, HEIGHT], (rows, 2)).astype(np.float32)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two patients, one pyramid with spots, one plain JPEG without."""
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(HEAD))
    (folder / "patients.csv").write_text("patient,site,age,grade\nP1,A,61.5,2\nP2,B,,\n")
    (folder / "outcomes.csv").write_text(
        "patient,endpoint,entry,time,cause\nP1,OS,,12.5,1\nP2,OS,2,30,0\n"
    )
    (folder / "specimens.csv").write_text("patient,specimen,kind\nP1,P1-T,primary\n")
    (folder / "slides.csv").write_text(
        "slide,patient,specimen,path,mpp,cells,row_kind,spot_diameter_um\n"
        "S1,P1,P1-T,s1.tif,,s1.h5ad,spot,55\n"
        "S2,P2,,s2.jpg,0.5,,,\n"
    )
    write_pyramid(picture(), folder / "s1.tif", mpp=0.5, mpp_source="a ruler")
    Image.fromarray(picture(seed=1)).save(folder / "s2.jpg", quality=95)
    counts, xy = counts_and_positions()
    write_cells(folder / "s1.h5ad", counts, xy, SYMBOLS)
    tables = folder / "patient_tables"
    tables.mkdir()
    pd.DataFrame({"TP53": [0.5, np.nan]}, index=pd.Index(["P1", "P2"], name="patient")).to_parquet(
        tables / "bulk.parquet"
    )
    (tables / "bulk.json").write_text('{"name": "Bulk", "unit": "z-score"}')
    return folder


@pytest.fixture
def change(study: Path) -> Callable[[str, str, str], None]:
    """Replaces a text in a file of the study; it must be there."""

    def replace(name: str, old: str, new: str) -> None:
        text = (study / name).read_text()
        assert old in text
        (study / name).write_text(text.replace(old, new, 1))

    return replace
