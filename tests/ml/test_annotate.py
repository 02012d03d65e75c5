"""What predictions say of each row: its type, and whether it looks like the training rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml.inference.run import run
from ml.io.annotations import BEYOND, NOT_ASSIGNED, Annotations
from ml.io.celltable import CellTable
from ml.io.store import content_hash
from ml.models import checkpoint
from ml.models.types import ABSTAIN_BELOW
from tests.ml.conftest import Recorder, sections

TYPES = {
    "tumour", "T cell", "B cell", "plasma cell", "macrophage", "fibroblast", "endothelial",
}  # fmt: skip


def job(tiny: dict[str, Any], model: Path) -> dict[str, Any]:
    """A prediction on the measured test slides, with their own tables."""
    targets = [{**s, "table": s["table"]} for s in sections(tiny) if s["part"] == "test"]
    return {"model": str(model), "model_sha256": content_hash(model)[0], "slides": targets}


@pytest.fixture(scope="module")
def predicted(
    tiny: dict[str, Any], trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    out = tmp_path_factory.mktemp("annotated")
    given = job(tiny, trained["out"] / "model")
    return out, run({}, given, out, Recorder()), given


def test_planted_types_are_found_on_slides_that_were_not_trained_on(
    predicted: tuple[Path, dict[str, Any], dict[str, Any]],
) -> None:
    out, result, given = predicted
    right, named = 0, 0
    for slide, target in zip(result["slides"], given["slides"], strict=True):
        found = Annotations.open(out / slide["annotations"]["cell_type"])
        assert found.n_rows == slide["n_rows"]
        assert found.attributes["table_sha256"] == target["table_sha256"]
        assert found.attributes["model_sha256"] == given["model_sha256"]
        types = found.attributes["types"]
        assert set(types) <= TYPES and len(types) >= 3
        codes, probability = found.column("codes"), found.column("probability") / 255
        assigned = codes != NOT_ASSIGNED
        assert (probability[assigned] >= ABSTAIN_BELOW - 0.5 / 255).all()
        assert (probability[~assigned] <= ABSTAIN_BELOW + 0.5 / 255).all()
        labels = CellTable.open(Path(target["table"])).labels()
        assert labels is not None
        truth = np.array(labels[1])[labels[0]]
        right += int((np.array([*types, *[""] * (256 - len(types))])[codes] == truth).sum())
        named += int(assigned.sum())
    assert right / named > 0.6


def test_trust_is_the_density_of_every_row(
    predicted: tuple[Path, dict[str, Any], dict[str, Any]], trained: dict[str, Any]
) -> None:
    out, result, _ = predicted
    model = checkpoint.load(trained["out"] / "model")
    assert model.density is not None
    for slide in result["slides"]:
        found = Annotations.open(out / slide["annotations"]["trust"])
        steps = found.column("ood")
        assert found.attributes["threshold"] == pytest.approx(float(model.density.threshold))
        assert (steps >= BEYOND).mean() == pytest.approx(slide["ood_share"], abs=1e-9)
        assert len(np.unique(steps)) > 10


def test_a_declined_slide_has_trust_but_no_types(
    tiny: dict[str, Any], trained: dict[str, Any], tmp_path: Path
) -> None:
    model = checkpoint.load(trained["out"] / "model")
    assert model.density is not None
    model.density.threshold.fill_(1e-3)
    checkpoint.save(model, tmp_path / "model")
    given = job(tiny, tmp_path / "model")
    given["slides"] = given["slides"][-1:]
    (slide,) = run({}, given, tmp_path / "out", Recorder())["slides"]
    assert slide["declined"] and slide["layer"] is None
    assert slide["annotations"]["cell_type"] is None
    trust = Annotations.open(tmp_path / "out" / slide["annotations"]["trust"])
    assert (trust.column("ood") >= BEYOND).mean() > 0.5


def test_a_model_that_knows_neither_writes_neither(
    tiny: dict[str, Any], trained: dict[str, Any], tmp_path: Path
) -> None:
    model = checkpoint.load(trained["out"] / "model")
    model.types, model.density = None, None
    checkpoint.save(model, tmp_path / "model")
    given = job(tiny, tmp_path / "model")
    given["slides"] = given["slides"][-1:]
    (slide,) = run({}, given, tmp_path / "out", Recorder())["slides"]
    assert slide["annotations"] == {"cell_type": None, "trust": None}
    assert slide["layer"] is not None
    assert not (tmp_path / "out" / "annotations").exists()


def test_the_training_reports_types_intervals_and_errors(trained: dict[str, Any]) -> None:
    metrics = trained["result"]["metrics"]
    json.dumps(metrics, allow_nan=False)
    types = metrics["cell_types"]
    assert set(types["methods"]) == {"probe", "knn", "zero_shot", "morphology", "majority"}
    test = {name: scores["test"] for name, scores in types["methods"].items()}
    # What is planted is seen, by colour and texture alone too: that is what morphology is.
    assert test["probe"]["macro_f1"] > test["majority"]["macro_f1"] + 0.2
    assert test["morphology"]["macro_f1"] > test["majority"]["macro_f1"] + 0.1
    assert test["probe"]["difference"] == pytest.approx(
        test["probe"]["macro_f1"] - test["morphology"]["macro_f1"]
    )
    assert types["calibrated_on"] == "validation"
    assert test["probe"]["patients"] == 3
    assert test["probe"]["n"] == sum(t["n"] for t in test["probe"]["per_type"].values())
    intervals = metrics["intervals"]
    genes = trained["result"]["config"]["vocabulary"]["symbols"]
    assert list(intervals["half_width"]) == list(genes)
    assert all(width > 0 for width in intervals["half_width"].values())
    assert 0.8 < intervals["coverage"]["test"]["overall"] < 0.98
    assert len(intervals["coverage"]["test"]["by_patient"]) == 3
    error = metrics["ood"]["error"]
    assert [d["share"] for d in error["dropped"]] == [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    assert error["beyond"]["n"] + error["within"]["n"] == error["dropped"][0]["n"]
    loaded = checkpoint.load(trained["out"] / "model")
    assert loaded.types is not None and loaded.types.names == types["types"]
    assert loaded.intervals is not None
    torch.testing.assert_close(
        loaded.intervals.half_width, torch.tensor(list(intervals["half_width"].values()))
    )


def test_labels_of_other_cells_are_chance(tiny_null: dict[str, Any], tmp_path: Path) -> None:
    """The permuted twin: the labels went with the counts to other cells."""
    from ml.training.run import run as train

    given = {"sections": sections(tiny_null), "parent": None, "work": str(tmp_path / "work")}
    params = {"preset": "tiny", "epochs": 1, "seed": 5, "settings": {"align": {"epochs": 0}}}
    metrics = train(params, given, tmp_path, Recorder())["metrics"]
    methods = metrics["cell_types"]["methods"]
    chance = methods["majority"]["test"]["macro_f1"]
    for name in ("probe", "knn", "morphology"):
        assert methods[name]["test"]["macro_f1"] < chance + 0.06
        assert (
            methods[name]["test"]["balanced_accuracy"]
            < 1 / len(metrics["cell_types"]["types"]) + 0.04
        )
