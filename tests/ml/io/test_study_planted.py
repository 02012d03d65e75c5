"""The planned split, drawn slides and the planted truth of a study folder, right and wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ml.io.study import convert_study, read_study
from ml.report import ConsoleReport
from tests.ml.io.conftest import counts_and_positions, write_cells
from tests.ml.io.test_study_bad_input import CELLS, refused

Change = Callable[[str, str, str], None]

TRUTH: dict[str, Any] = {
    "version": 1, "mpp": 0.5, "seed": 7,
    "cells": [{"type": "tumour", "label": "Tumour", "n": 90, "share": 0.9}],
    "states": [{"name": "nuclear_size", "of": "tumour", "label": "Size", "drawn_as": "area"}],
    "surroundings": [{"name": "lymphocytes", "label": "Lymphocytes near by"}],
    "contact": {"definition": "share of tumour cells", "radius_um": 15, "mean": 0.2, "sd": 0.1,
                "by_patient": [{"patient": "P1", "site": "A", "contact": 0.25}]},
    "genes": [{"symbol": "ERBB2", "gene_id": "ENSG00000141736", "link": "morphology",
               "follows": "tumour cells", "oracle_pcc": 0.6}],
    "hazards": [{"term": "stage", "label": "Stage", "log_hazard_ratio": 0.45, "unit": "step"}],
    "fitted": [{"term": "stage", "log_hazard_ratio": 0.4, "low": 0.2, "high": 0.6}],
    "sites": [{"site": "A", "patients": 1, "slides": 1, "haematoxylin_gain": 1.0,
               "eosin_gain": 1.0, "events": 0, "median_months": None, "note": ""}],
    "oracle_risk": [{"predictor": "contact", "c_index": 0.7, "low": 0.65, "high": 0.75}],
    "markers": [{"marker": "Ki-67", "gene": "MKI67", "compartment": "nucleus", "ihc_slides": 2,
                 "calibration_patients": 1, "test_patients": 1}],
    "twins": [{"slug": "small-permuted", "label": "Permuted", "what": "genes change patients"}],
    "artefacts": {"folds": 1, "out_of_focus": 0},
    "real_slide": None,
}  # fmt: skip


@pytest.fixture
def synthetic(study: Path, change: Change) -> Path:
    change("study.json", '"slug"', '"synthetic": true, "slug"')
    return study


def write_truth(study: Path, truth: object) -> Path:
    path = study / "truth/truth.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(truth if isinstance(truth, str) else json.dumps(truth))
    return path


class TestParts:
    def test_of_the_patients_that_have_one(self, study: Path, tmp_path: Path) -> None:
        (study / "parts.csv").write_text("patient,part\nP2,test\n")
        assert [p.part for p in read_study(study).patients] == ["", "test"]
        result = convert_study(study, tmp_path / "out", ConsoleReport())
        assert [p["part"] for p in result["patients"]] == ["", "test"]

    @pytest.mark.parametrize(
        ("rows", "code", "row"),
        [
            ("P1,train\nP9,test\n", "patient.unknown", 3),
            ("P1,train\nP1,test\n", "part.twice", 3),
            ("P1,holdout\n", "parts.part", 2),
            ("P1,\n", "table.empty", 2),
            ("P1,train,P2\n", "table.row", 2),
        ],
    )
    def test_wrong(self, study: Path, rows: str, code: str, row: int) -> None:
        (study / "parts.csv").write_text("patient,part\n" + rows)
        refused(study, code, f"parts.csv row {row}")

    def test_a_wrong_header(self, study: Path) -> None:
        (study / "parts.csv").write_text("patient,role\nP1,train\n")
        refused(study, "table.column_missing", "parts.csv row 1")


class TestSyntheticSlides:
    def test_as_the_study_where_nothing_is_said(self, synthetic: Path, change: Change) -> None:
        assert [s.synthetic for s in read_study(synthetic).slides] == [True, True]
        change("slides.csv", "slide,", "synthetic,slide,")
        change("slides.csv", "S1,P1", ",S1,P1")
        change("slides.csv", "S2,P2", "no,S2,P2")
        assert [s.synthetic for s in read_study(synthetic).slides] == [True, False]

    def test_neither_yes_nor_no(self, study: Path, change: Change) -> None:
        assert not read_study(study).slides[0].synthetic
        change("slides.csv", "slide,", "synthetic,slide,")
        change("slides.csv", "S1,P1", "yes,S1,P1")
        change("slides.csv", "S2,P2", "true,S2,P2")
        refused(study, "slides.synthetic", "slides.csv row 3")


class TestTruth:
    def test_is_copied_as_it_is(self, synthetic: Path, tmp_path: Path) -> None:
        path = write_truth(synthetic, TRUTH | {"said_later": 1})
        result = convert_study(synthetic, tmp_path / "out", ConsoleReport())
        assert result["truth"] == "truth.json"
        assert (tmp_path / "out/truth.json").read_bytes() == path.read_bytes()

    def test_there_need_be_none(self, synthetic: Path, tmp_path: Path) -> None:
        assert convert_study(synthetic, tmp_path / "out", ConsoleReport())["truth"] is None

    def test_only_of_a_synthetic_study(self, study: Path) -> None:
        write_truth(study, TRUTH)
        error = refused(study, "truth.not_synthetic", "truth/truth.json")
        assert "only a synthetic study has a planted truth" in error.what

    @pytest.mark.parametrize(
        ("at", "value", "where"),
        [
            (["version"], 2, "version"),
            (["mpp"], 0, "mpp"),
            (["genes", 0, "link"], "guess", "genes.0.link"),
            (["genes", 0, "oracle_pcc"], 1.2, "genes.0.oracle_pcc"),
            (["oracle_risk", 0, "low"], float("nan"), "oracle_risk.0.low"),
            (["cells", 0, "n"], -1, "cells.0.n"),
            (["contact", "by_patient"], None, "contact.by_patient"),
            (["sites", 0, "median_months"], "never", "sites.0.median_months"),
        ],
    )
    def test_a_wrong_field(self, synthetic: Path, at: list[Any], value: object, where: str) -> None:
        truth = copy.deepcopy(TRUTH)
        place: Any = truth
        for key in at[:-1]:
            place = place[key]
        place[at[-1]] = value
        write_truth(synthetic, truth)
        refused(synthetic, "truth.wrong", f"truth/truth.json {where}")

    @pytest.mark.parametrize("key", sorted(TRUTH))
    def test_a_missing_key(self, synthetic: Path, key: str) -> None:
        write_truth(synthetic, {k: v for k, v in TRUTH.items() if k != key})
        refused(synthetic, "truth.wrong", f"truth/truth.json {key}")

    @pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
    def test_no_such_document(self, synthetic: Path, text: str) -> None:
        write_truth(synthetic, text)
        refused(synthetic, "truth.wrong", "truth/truth.json")

    def test_too_large(self, synthetic: Path) -> None:
        write_truth(synthetic, TRUTH | {"more": "x" * 5_000_000})
        refused(synthetic, "truth.too_large", "truth/truth.json")

    def test_a_folder_in_its_place(self, synthetic: Path) -> None:
        (synthetic / "truth/truth.json").mkdir(parents=True)
        refused(synthetic, "truth.unreadable", "truth/truth.json")


class TestNamesTooLongForTheDatabase:
    @pytest.mark.parametrize(("key", "longest"), [("name", 120), ("unit", 60)])
    def test_of_a_patient_table(self, study: Path, key: str, longest: int) -> None:
        about = {"name": "Bulk", "unit": "z-score"}
        path = study / "patient_tables/bulk.json"
        path.write_text(json.dumps(about | {key: "x" * longest}))
        read_study(study)
        path.write_text(json.dumps(about | {key: "x" * (longest + 1)}))
        refused(study, "patient_table.too_long", "patient_tables/bulk.parquet")

    def test_of_its_columns(self, study: Path) -> None:
        frame = pd.DataFrame({"x" * 121: [1.0]}, index=pd.Index(["P1"], name="patient"))
        frame.to_parquet(study / "patient_tables/bulk.parquet")
        refused(study, "patient_table.too_long", "patient_tables/bulk.parquet")

    def test_of_genes(self, study: Path) -> None:
        write_cells(study / "s1.h5ad", *counts_and_positions(), ["x" * 121, "A", "B", "C", "D"])
        refused(study, "cells.gene_names", CELLS)
