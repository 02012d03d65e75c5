"""Adapters of published data sets, on files made here in their published form."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ml.errors import InputError
from ml.io.her2st import her2st_study
from ml.io.kirc import kirc_study
from ml.io.study import detect_format, read_study
from ml.report import PipeReport
from tests.ml.io.conftest import picture


class Listener(PipeReport):
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.logged: list[str] = []

    def event(self, kind: str, data: dict[str, object]) -> None:
        if kind == "log":
            self.logged.append(str(data["text"]))


@pytest.fixture
def her2st(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    for name in ("counts", "spots", "images"):
        (raw / name).mkdir(parents=True)
    Image.fromarray(picture(1000, 900)).save(raw / "images" / "C2_1_HE.jpg")
    grid = [(x, y) for x in range(1, 4) for y in range(1, 4)]
    spots = pd.DataFrame(grid, columns=["x", "y"])
    spots["new_x"], spots["new_y"] = spots.x + 0.1, spots.y - 0.1
    spots["pixel_x"], spots["pixel_y"] = 290 * spots.new_x - 200, 290 * spots.new_y - 200
    spots["selected"] = [0] + [1] * 8
    spots.to_csv(raw / "spots" / "C2_selection.tsv", sep="\t", index=False)
    counts = pd.DataFrame(
        np.arange(16).reshape(8, 2),
        index=[f"{x}x{y}" for x, y in grid[:8]],
        columns=["ERBB2", "FN1"],
    )
    counts.to_csv(raw / "counts" / "C2.tsv.gz", sep="\t")
    return raw


def test_her2st(her2st: Path, tmp_path: Path) -> None:
    listener = Listener()
    study = read_study(her2st_study(her2st, tmp_path / "study", listener))
    (slide,) = study.slides
    assert (slide.slide, slide.patient, slide.row_kind) == ("C2", "C", "spot")
    assert slide.mpp == pytest.approx(200 / 290)
    assert (slide.mpp_source, slide.spot_diameter_um) == ("200 µm spot pitch", 100.0)
    assert slide.cells is not None
    table = anndata.read_h5ad(slide.cells)
    # Spot 1x1 is not selected, 3x3 has no counts.
    assert table.obs_names.tolist() == ["1x2", "1x3", "2x1", "2x2", "2x3", "3x1", "3x2"]
    assert table["2x1", "FN1"].X.toarray().item() == 7
    np.testing.assert_allclose(table.obsm["spatial"][0], [119, 351], atol=1e-3)
    assert any("1 selected spots have no counts" in text for text in listener.logged)
    assert detect_format(her2st) == "her2st"


def test_her2st_files_missing_or_cut(her2st: Path, tmp_path: Path) -> None:
    counts = her2st / "counts" / "C2.tsv.gz"
    counts.write_bytes(counts.read_bytes()[:40])
    with pytest.raises(InputError) as caught:
        her2st_study(her2st, tmp_path / "a", Listener())
    assert (caught.value.code, caught.value.where) == ("her2st.unreadable", "counts/C2.tsv.gz")
    counts.unlink()
    with pytest.raises(InputError) as caught:
        her2st_study(her2st, tmp_path / "b", Listener())
    assert caught.value.code == "her2st.no_sections"


@pytest.fixture
def kirc(tmp_path: Path) -> Path:
    raw = tmp_path / "survival"
    raw.mkdir()
    pd.DataFrame(
        {
            "case_id": ["T-1", "T-2", "T-2", "T-3"],
            "slide_id": ["a", "b", "c", "d"],
            "age": [60, 70, 70, None],
            "site": ["01", "02", "02", "01"],
            "survival_months": [10.5, 20, 20, 30],
            "censorship": [1, 0, 0, 1],
            "is_female": [1, 0, 0, None],
            "TP53_rnaseq": [0.1, 0.2, 0.9, None],
            "VHL_mut": [1, 0, 0, None],
        }
    ).to_csv(raw / "tcga_kirc_all_clean.csv.zip", index=False)
    return raw


def test_kirc(kirc: Path, tmp_path: Path) -> None:
    listener = Listener()
    study = read_study(kirc_study(kirc, tmp_path / "study", listener))
    assert [p.code for p in study.patients] == ["T-1", "T-2", "T-3"]
    assert [p.site for p in study.patients] == ["01", "02", "01"]
    assert study.patients[0].clinical == {"age": 60, "sex": "female", "VHL_mut": "mutated"}
    assert study.patients[2].clinical == {}
    # censorship 1 means censored: an event is 1 - censorship.
    assert [(o.time, o.cause) for o in study.outcomes] == [(10.5, 0), (20, 1), (30, 0)]
    expression = pd.read_parquet(study.patient_tables[0].path)
    assert expression.columns.tolist() == ["TP53"]
    assert expression.loc["T-2", "TP53"] == np.float32(0.2)
    assert any("1 rows are further slides" in text for text in listener.logged)
    assert detect_format(kirc) == "kirc"


def test_kirc_with_another_coding_of_events(kirc: Path, tmp_path: Path) -> None:
    path = kirc / "tcga_kirc_all_clean.csv.zip"
    table = pd.read_csv(path)
    table.loc[3, "censorship"] = 2
    table.to_csv(path, index=False)
    with pytest.raises(InputError) as caught:
        kirc_study(kirc, tmp_path / "study", Listener())
    assert (caught.value.code, caught.value.where) == ("kirc.censorship", f"{path.name} row 5")
    table.drop(columns="censorship").to_csv(path, index=False)
    with pytest.raises(InputError) as caught:
        kirc_study(kirc, tmp_path / "study", Listener())
    assert caught.value.code == "kirc.columns"
