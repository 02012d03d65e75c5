"""`past types`: labels from a reference, from its nearest cells, and from marker genes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

from ml.cli import main
from ml.errors import InputError
from ml.io.annotations import NOT_ASSIGNED, Annotations
from ml.report import plain
from ml.tasks.marker_sets import (
    MarkerSet,
    marker_scores,
    on_panel,
    read_marker_sets,
    sets_of_labels,
)
from tests.ml.conftest import sections


@pytest.fixture(scope="module")
def study(tiny: dict[str, Any]) -> Path:
    """The converted study, with the listing that `past convert` leaves."""
    folder: Path = tiny["folder"]
    listing = {name: value for name, value in tiny.items() if name != "folder"}
    (folder / "result.json").write_text(json.dumps(plain(listing)))
    return folder


@pytest.fixture(scope="module")
def reference(
    generated: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The training slides' cells in one file, as an annotated reference."""
    codes = [s["slide_code"] for s in sections(tiny) if s["part"] == "train"]
    tables = [anndata.read_h5ad(generated / "cells" / f"{code}.h5ad") for code in codes]
    whole = anndata.concat(tables)
    path = tmp_path_factory.mktemp("reference") / "reference.h5ad"
    whole.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def held_out(tiny: dict[str, Any]) -> list[str]:
    return [s["slide_code"] for s in sections(tiny) if s["part"] == "test"]


def report_of(capsys: pytest.CaptureFixture[str], *command: object) -> dict[str, Any]:
    assert main(["types", *map(str, command)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def accuracy(report: dict[str, Any]) -> float:
    """Share of the labelled cells that got their own name, over all slides."""
    found = [slide["agreement"] for slide in report["slides"]]
    right = sum(a["named_accuracy"] * a["named"] * a["n"] for a in found)
    return float(right / sum(a["n"] for a in found))


@pytest.mark.parametrize("way", ["transfer", "knn"])
def test_labels_of_held_out_sections_are_recovered(
    way: str,
    reference: Path,
    study: Path,
    held_out: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    report = report_of(capsys, way, reference, study, out, "--slides", *held_out)
    assert report == json.loads((out / "report.json").read_text())
    assert report["genes"] == 120
    assert report["macro_f1"] > 0.9 and report["ece"] < 0.05
    assert [slide["slide_code"] for slide in report["slides"]] == held_out
    assert accuracy(report) > 0.85
    for slide in report["slides"]:
        found = Annotations.open(out / slide["path"])
        assert found.attributes["method"] == way
        codes = found.column("codes")
        assert (codes == NOT_ASSIGNED).sum() == slide["not_assigned"]
        for code, name in enumerate(found.attributes["types"]):
            assert (codes == code).sum() == slide["cells"][name]


def test_a_type_that_the_reference_lacks_gets_no_name(
    reference: Path,
    study: Path,
    held_out: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without = anndata.read_h5ad(reference)
    without = without[without.obs["cell_type"] != "tumour"].copy()
    without.write_h5ad(tmp_path / "without.h5ad")
    report = report_of(
        capsys, "transfer", tmp_path / "without.h5ad", study, tmp_path / "out",
        "--slides", *held_out,
    )  # fmt: skip
    agreements = [slide["agreement"] for slide in report["slides"]]
    other = sum(a["other"] for a in agreements)
    assert other > 100
    assert sum(a["other_not_assigned"] for a in agreements) / other > 0.8
    known = sum(a["n"] for a in agreements)
    assert sum(a["named"] * a["n"] for a in agreements) / known > 0.8


def test_marker_sets_find_planted_types(
    study: Path, held_out: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(capsys, "zero-shot", study, tmp_path / "out", "--slides", *held_out)
    assert report["calibrated"] is False
    assert set(report["types"]) >= {"tumour", "t_cell", "b_cell", "plasma", "fibroblast"}
    assert accuracy(report) > 0.6
    # The panel's stroma has activated cells that smooth muscle's markers claim too.
    seven = [name for name in report["types"] if name != "smooth_muscle"]
    fewer = report_of(
        capsys, "zero-shot", study, tmp_path / "seven", "--slides", *held_out, "--types", *seven
    )
    assert fewer["types"] == seven
    assert accuracy(fewer) > max(0.75, accuracy(report))


def test_predicted_expression_is_typed_too(
    tiny: dict[str, Any],
    trained: dict[str, Any],
    study: Path,
    held_out: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ml.inference.run import run
    from ml.io.store import content_hash
    from tests.ml.conftest import Recorder

    model = trained["out"] / "model"
    target = [s for s in sections(tiny) if s["part"] == "test"][:1]
    given = {"model": str(model), "model_sha256": content_hash(model)[0], "slides": target}
    run({}, given, tmp_path / "predicted", Recorder())
    report = report_of(
        capsys, "zero-shot", study, tmp_path / "out", "--prediction", tmp_path / "predicted"
    )
    (slide,) = report["slides"]
    assert slide["slide_code"] == target[0]["slide_code"]
    assert slide["agreement"]["named_accuracy"] > 0.4


class TestMarkerSets:
    def test_scores_are_mean_z(self) -> None:
        rng = np.random.default_rng(0)
        values = rng.normal(5, [1, 2, 3, 0], (200, 4))
        found = marker_scores(values, [np.array([0, 2]), np.array([1, 3])])
        z = (values[:, :3] - values[:, :3].mean(0)) / values[:, :3].std(0)
        np.testing.assert_allclose(found[:, 0], (z[:, 0] + z[:, 2]) / 2)
        np.testing.assert_allclose(found[:, 1], z[:, 1] / 2)

    def test_names_are_matched_as_words(self) -> None:
        sets = read_marker_sets()
        symbols = [gene for s in sets for gene in s.genes]
        labels = ["T cells", "Tumor", "Macrophages", "Endothelial Cells", "B-cell", "stranger"]
        assert set(sets_of_labels(sets, labels, symbols)) == set(labels) - {"stranger"}

    def test_a_set_needs_two_genes_of_the_panel(self) -> None:
        sets = [MarkerSet("a", (), ("A", "B")), MarkerSet("b", (), ("C", "D"))]
        assert list(on_panel(sets, ["A", "B", "C"])) == ["a"]

    @pytest.mark.parametrize(
        "text", ["", "{}", '{"sets": []}', '{"sets": [{"name": "", "genes": ["A"]}]}',
                 '{"sets": [{"name": "a", "genes": [1]}]}', "[]"],
    )  # fmt: skip
    def test_a_file_that_is_wrong(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(InputError) as caught:
            read_marker_sets(tmp_path / "m.json")
        assert caught.value.code == "markers.unreadable"


class TestRefused:
    @pytest.fixture
    def source(self, reference: Path) -> anndata.AnnData:
        return anndata.read_h5ad(reference)

    def refused(
        self, table: anndata.AnnData, study: Path, folder: Path, *more: object
    ) -> InputError:
        from ml.cli import _parser

        table.write_h5ad(folder / "r.h5ad")
        command = ["types", "transfer", folder / "r.h5ad", study, folder / "out", *more]
        given = _parser().parse_args([str(part) for part in command])
        with pytest.raises(InputError) as caught:
            given.run(given)
        assert not (folder / "out").exists()
        return caught.value

    def test_too_few_shared_genes(
        self, source: anndata.AnnData, study: Path, tmp_path: Path
    ) -> None:
        error = self.refused(source[:, :19].copy(), study, tmp_path)
        assert error.code == "reference.few_genes"
        assert "19 genes" in error.what

    def test_no_labels(self, source: anndata.AnnData, study: Path, tmp_path: Path) -> None:
        del source.obs["cell_type"]
        assert self.refused(source, study, tmp_path).code == "reference.no_labels"

    def test_one_type_only(self, source: anndata.AnnData, study: Path, tmp_path: Path) -> None:
        source.obs["cell_type"] = "tumour"
        assert self.refused(source, study, tmp_path).code == "reference.few_types"

    def test_no_counts(self, source: anndata.AnnData, study: Path, tmp_path: Path) -> None:
        source.X = source.X * 0.37
        assert self.refused(source, study, tmp_path).code == "reference.not_counts"

    def test_a_slide_that_is_not_there(
        self, source: anndata.AnnData, study: Path, tmp_path: Path
    ) -> None:
        error = self.refused(source, study, tmp_path, "--slides", "P999-H1")
        assert error.code == "study.unknown_slide"

    def test_a_marker_set_that_is_not_there(self, study: Path, tmp_path: Path) -> None:
        assert main(["types", "zero-shot", str(study), str(tmp_path / "o"), "--types", "x"]) != 0
        assert not (tmp_path / "o").exists()

    def test_no_neighbours(self, reference: Path, study: Path, tmp_path: Path) -> None:
        command = ["types", "knn", str(reference), str(study), str(tmp_path / "o")]
        assert main([*command, "--neighbours", "0"]) != 0
        assert not (tmp_path / "o").exists()
