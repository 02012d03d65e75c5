"""Every mistake in a study folder is told with its file, its row and a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from ml.errors import InputError
from ml.io.study import convert_study, read_study
from ml.report import ConsoleReport
from tests.ml.io.conftest import SYMBOLS, counts_and_positions, write_cells

Change = Callable[[str, str, str], None]


def refused(study: Path, code: str, where: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read_study(study)
    error = caught.value
    assert (error.code, error.where) == (code, where)
    assert error.what.endswith(".")
    assert error.remedy.endswith(".")
    return error


@pytest.mark.parametrize(
    ("file", "old", "new", "code", "where"),
    [
        # patients
        ("patients.csv", "P2,B", "P1,B", "patient.twice", "patients.csv row 3"),
        ("patients.csv", "P2,B", ",B", "table.empty", "patients.csv row 3"),
        ("patients.csv", "61.5", "sixty", "table.not_a_number", "patients.csv row 2"),
        ("patients.csv", "61.5", "inf", "table.not_a_number", "patients.csv row 2"),
        ("patients.csv", "61.5,2", "61.5,IV", "patients.grade", "patients.csv row 2"),
        ("patients.csv", "61.5,2", "61,5,2", "table.row", "patients.csv row 2"),
        ("patients.csv", "patient,", "id,", "table.column_missing", "patients.csv row 1"),
        ("patients.csv", "grade", "stage", "table.column_unknown", "patients.csv row 1"),
        ("patients.csv", "grade", "age", "table.column_twice", "patients.csv row 1"),
        ("patients.csv", "P1,A", "P1," + "A" * 90, "table.too_long", "patients.csv row 2"),
        # outcomes
        ("outcomes.csv", "12.5", "-12.5", "outcome.negative_time", "outcomes.csv row 2"),
        ("outcomes.csv", "OS,2,", "OS,-2,", "outcome.negative_time", "outcomes.csv row 3"),
        ("outcomes.csv", "OS,2,", "OS,31,", "outcome.before_entry", "outcomes.csv row 3"),
        ("outcomes.csv", "12.5", "", "outcome.no_time", "outcomes.csv row 2"),
        ("outcomes.csv", "12.5", "a year", "table.not_a_number", "outcomes.csv row 2"),
        ("outcomes.csv", "12.5,1", "12.5,dead", "outcome.unknown_event", "outcomes.csv row 2"),
        ("outcomes.csv", "12.5,1", "12.5,3", "outcome.unknown_event", "outcomes.csv row 2"),
        ("outcomes.csv", "12.5,1", "12.5,", "table.empty", "outcomes.csv row 2"),
        ("outcomes.csv", "P2,OS", "P1,OS", "outcome.twice", "outcomes.csv row 3"),
        ("outcomes.csv", "P2,OS", "P9,OS", "patient.unknown", "outcomes.csv row 3"),
        ("outcomes.csv", "P2,OS", "P2,PFS", "outcomes.endpoint", "outcomes.csv row 3"),
        # specimens
        ("specimens.csv", "P1,P1-T", "P9,P1-T", "patient.unknown", "specimens.csv row 2"),
        ("specimens.csv", "primary", "biopsy", "specimens.kind", "specimens.csv row 2"),
        # slides
        ("slides.csv", "S2,P2", "S2,P9", "patient.unknown", "slides.csv row 3"),
        ("slides.csv", "S2,P2", "s1,P2", "slide.twice", "slides.csv row 3"),
        ("slides.csv", "S2,P2", "../S2,P2", "slide.code", "slides.csv row 3"),
        ("slides.csv", "P1-T", "P1-X", "slide.unknown_specimen", "slides.csv row 2"),
        ("slides.csv", "s2.jpg", "s3.jpg", "slide.missing", "slides.csv row 3"),
        ("slides.csv", "s2.jpg", "../s2.jpg", "slide.path_outside", "slides.csv row 3"),
        ("slides.csv", "s2.jpg", "/etc/passwd", "slide.path_outside", "slides.csv row 3"),
        ("slides.csv", "s2.jpg,0.5", "s2.jpg,", "slide.no_mpp", "slides.csv row 3"),
        ("slides.csv", "s2.jpg,0.5", "s2.jpg,353", "slide.bad_mpp", "slides.csv row 3"),
        ("slides.csv", "s2.jpg,0.5", "s2.jpg,-1", "slide.bad_mpp", "slides.csv row 3"),
        ("slides.csv", "s1.h5ad", "s9.h5ad", "cells.missing", "slides.csv row 2"),
        ("slides.csv", "spot,55", "bead,55", "slides.row_kind", "slides.csv row 2"),
        ("slides.csv", "spot,55", "spot,", "slide.no_spot_diameter", "slides.csv row 2"),
        # study.json
        ("study.json", '"slug": "small"', '"slug": "Not a slug"', "study.head", "study.json slug"),
        ("study.json", '"causes"', '"cause"', "study.head", "study.json endpoints.0.causes"),
        ("study.json", '{"1"', '{"0"', "study.head", "study.json endpoints.0.causes.0.[key]"),
        ("study.json", '["1", "2", "3"]', "[]", "study.head", "study.json clinical.1"),
        ("study.json", "{", "", "study.head", "study.json"),
    ],
)
def test_a_spoilt_field(
    study: Path, change: Change, file: str, old: str, new: str, code: str, where: str
) -> None:
    change(file, old, new)
    refused(study, code, where)


def test_missing_files(study: Path) -> None:
    (study / "patients.csv").unlink()
    refused(study, "table.missing", "patients.csv")
    (study / "study.json").unlink()
    refused(study, "study.missing", "study.json")


def test_not_utf8(study: Path) -> None:
    (study / "patients.csv").write_bytes("patient,site\nMüller,A\n".encode("latin-1"))
    refused(study, "table.unreadable", "patients.csv")


def test_ihc_needs_its_marker(study: Path, change: Change) -> None:
    change("slides.csv", "slide,patient", "stain,slide,patient")
    change("slides.csv", "S1", "H&E,S1")
    change("slides.csv", "S2", "IHC,S2")
    refused(study, "slide.no_marker", "slides.csv row 3")


@pytest.mark.parametrize(("share", "code"), [(0.6, "slide.truncated"), (0.0, "slide.unreadable")])
@pytest.mark.parametrize(("name", "row"), [("s1.tif", 2), ("s2.jpg", 3)])
def test_slide_that_is_cut_short(study: Path, name: str, row: int, share: float, code: str) -> None:
    whole = (study / name).read_bytes()
    (study / name).write_bytes(whole[: int(share * len(whole))])
    refused(study, code, f"slides.csv row {row} ({name})")


CELLS = "slides.csv row 2 (s1.h5ad)"


def test_spots_outside_the_slide(study: Path) -> None:
    counts, xy = counts_and_positions()
    xy[4] = [701, 20]
    write_cells(study / "s1.h5ad", counts, xy, SYMBOLS)
    error = refused(study, "cells.outside", CELLS)
    assert "1 of 20 rows" in error.what
    assert "row 4 (s4)" in error.what
    for wrong in ([-1, 20], [20, 500], [np.nan, 20]):
        xy[4] = wrong
        write_cells(study / "s1.h5ad", counts, xy, SYMBOLS)
        refused(study, "cells.outside", CELLS)


def test_positions_missing_or_of_the_wrong_shape(study: Path) -> None:
    table = anndata.read_h5ad(study / "s1.h5ad")
    table.obsm["spatial"] = np.zeros((20, 3))
    table.write_h5ad(study / "s1.h5ad")
    refused(study, "cells.positions", CELLS)
    del table.obsm["spatial"]
    table.write_h5ad(study / "s1.h5ad")
    refused(study, "cells.no_positions", CELLS)


@pytest.mark.parametrize("value", [0.5, -1, np.nan])
def test_values_that_are_no_counts(study: Path, value: float) -> None:
    counts, xy = counts_and_positions()
    spoilt = counts.astype(float)
    spoilt[6, 2] = value
    write_cells(study / "s1.h5ad", spoilt, xy, SYMBOLS)
    assert "row 6 (s6)" in refused(study, "cells.not_counts", CELLS).what


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([f"cell number {i}" for i in range(120)], "120 different values"),
        ([0.5, np.nan, 1.5] * 40, "numbers with decimals"),
        (["T cell"] * 3 + ["x" * 81] + [""] * 116, "row 3 (s3) has 81 characters"),
    ],
)
def test_labels_that_are_no_cell_types(study: Path, labels: list[object], says: str) -> None:
    counts, xy = counts_and_positions(120)
    write_cells(study / "s1.h5ad", counts, xy, SYMBOLS)
    table = anndata.read_h5ad(study / "s1.h5ad")
    table.obs["cell_type"] = labels
    table.write_h5ad(study / "s1.h5ad")
    assert says in refused(study, "cells.cell_types", CELLS).what


@pytest.mark.parametrize(
    "symbols",
    [
        ["0", "1", "2", "3", "4"],
        [f"ENSG0000014173{i}" for i in range(5)],
        ["ERBB2", "ESR1", "ERBB2", "MKI67", "ACTA2"],
        ["ERBB2", "ESR1", " ", "MKI67", "ACTA2"],
    ],
)
def test_gene_names_that_match_nothing(study: Path, symbols: list[str]) -> None:
    counts, xy = counts_and_positions()
    write_cells(study / "s1.h5ad", counts, xy, symbols)
    refused(study, "cells.gene_names", CELLS)


def test_gene_names_that_match_none_of_the_other_tables(study: Path, change: Change) -> None:
    counts, xy = counts_and_positions()
    write_cells(study / "s2.h5ad", counts, xy, [s.lower() for s in SYMBOLS])
    change("slides.csv", "0.5,,,", "0.5,s2.h5ad,cell,")
    refused(study, "cells.no_shared_genes", "slides.csv row 3 (s2.h5ad)")


def test_cells_that_cannot_be_read(study: Path) -> None:
    whole = (study / "s1.h5ad").read_bytes()
    (study / "s1.h5ad").write_bytes(whole[: len(whole) // 2])
    refused(study, "cells.unreadable", CELLS)


def test_cells_without_rows(study: Path) -> None:
    write_cells(study / "s1.h5ad", np.zeros((0, 5)), np.zeros((0, 2)), SYMBOLS)
    refused(study, "cells.empty", CELLS)


def test_patient_tables(study: Path) -> None:
    path, about = study / "patient_tables/bulk.parquet", study / "patient_tables/bulk.json"
    where = "patient_tables/bulk.parquet"

    def write(values: dict[str, list[object]], index: list[str], name: str = "patient") -> None:
        pd.DataFrame(values, index=pd.Index(index, name=name)).to_parquet(path)

    write({"TP53": [1.0]}, ["P9"])
    refused(study, "patient.unknown", f"{where} row 2")
    write({"TP53": [1.0, 2.0]}, ["P1", "P1"])
    refused(study, "patient_table.twice", where)
    write({"TP53": ["high"]}, ["P1"])
    refused(study, "patient_table.not_numbers", f"{where} column TP53")
    write({"TP53": [np.inf]}, ["P1"])
    refused(study, "patient_table.not_numbers", f"{where} column TP53")
    write({"TP53": [1.0]}, ["P1"], name="case")
    refused(study, "patient_table.no_patient", where)
    path.write_bytes(b"PAR1")
    refused(study, "patient_table.unreadable", where)
    write({"TP53": [1.0]}, ["P1"])
    about.write_text(json.dumps({"name": "Bulk"}))
    refused(study, "patient_table.no_description", "patient_tables/bulk.json")
    about.unlink()
    refused(study, "patient_table.no_description", "patient_tables/bulk.json")


def test_nothing_is_written_for_a_study_that_is_refused(
    study: Path, change: Change, tmp_path: Path
) -> None:
    change("outcomes.csv", "12.5", "-1")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError):
        convert_study(study, out, ConsoleReport())
    assert not list(out.iterdir())
