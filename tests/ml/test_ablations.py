"""The table of what each part of the model brings."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.errors import InputError
from ml.models import checkpoint
from ml.training import ablations
from ml.training.ablations import COLUMNS, FULL, VARIANTS, ablate, ablate_file, markdown, merged
from tests.ml.conftest import Recorder, sections
from tests.ml.training.corpora import write_study

SMALL = {
    "preset": "tiny", "epochs": 1, "seed": 3,
    "settings": {"align": {"epochs": 1, "batch": 64, "rows": 256}},
}  # fmt: skip
ASKED = ("no neighbourhood", "negative binomial alone", "soft targets")


@pytest.fixture(scope="module")
def table(
    tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("ablations")
    return out, ablate(sections(tiny), SMALL, out, Recorder(), ASKED)


def test_variants_are_trained_without_their_part(
    table: tuple[Path, list[dict[str, Any]]],
) -> None:
    out, rows = table
    assert [row["variant"] for row in rows] == [FULL, *ASKED]
    full, alone = (checkpoint.load(out / name / "model") for name in ("full", "no-neighbourhood"))
    assert full.config.architecture.neighbours > 0 == alone.config.architecture.neighbours
    assert full.networks()[0].neighbourhood is not None
    assert alone.networks()[0].neighbourhood is None
    with (out / "ablations.csv").open(newline="") as file:
        assert [row["variant"] for row in csv.DictReader(file)] == [FULL, *ASKED]


def test_differences_are_to_the_whole_model_and_hold_the_estimate(
    table: tuple[Path, list[dict[str, Any]]],
) -> None:
    full, *others = table[1]
    assert full["difference"] == full["difference_low"] == full["difference_high"] == 0
    for row in others:
        assert row["difference"] == pytest.approx(row["validation_pcc"] - full["validation_pcc"])
        assert row["difference_low"] <= row["difference_high"]


def test_only_trained_spaces_have_a_recall(table: tuple[Path, list[dict[str, Any]]]) -> None:
    found = {row["variant"]: row["image_to_gene_r10"] for row in table[1]}
    assert found["negative binomial alone"] is None
    assert all(0 <= found[name] <= 1 for name in (FULL, "no neighbourhood", "soft targets"))
    text = markdown(table[1])
    assert len(text.splitlines()) == 2 + len(table[1]) and "| – | – |" in text


def test_what_was_trained_is_kept_unless_it_is_asked_otherwise(
    table: tuple[Path, list[dict[str, Any]]],
    tiny: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, rows = table

    def untouched(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(ablations, "run", untouched)
    again = ablate(sections(tiny), SMALL, out, Recorder(), ASKED[:1])
    assert [row["validation_pcc"] for row in again] == [rows[0][COLUMNS[1]], rows[1][COLUMNS[1]]]
    with pytest.raises(AssertionError, match="trained again"):
        ablate(sections(tiny), {**SMALL, "seed": 4}, out, Recorder(), ())


def test_every_variant_differs_from_the_whole_model_in_parameters() -> None:
    base = {"epochs": 10, "settings": {"losses": {"contrast": 2.0}}}
    assert merged(base, VARIANTS[FULL]) == base
    for name, other in VARIANTS.items():
        changed = merged(base, other)
        assert (changed != base) == (name != FULL)
        assert changed["settings"]["losses"]["contrast"] == 2.0
    assert np.isin(ASKED, list(VARIANTS)).all()


@pytest.mark.parametrize(
    ("study", "variants", "code"),
    [("", None, "ablate.no_validation"), ("validation", ("no eyes",), "ablate.variant")],
)
def test_bad_input(tmp_path: Path, study: str, variants: tuple[str, ...] | None, code: str) -> None:
    write_study(tmp_path / "study", slides=3, cells=20)
    config = tmp_path / "run.toml"
    part = study or "test"
    config.write_text(
        f'out = "o"\n[data]\nstudy = "study"\n{part} = ["S2"]\n'
        '[model]\nencoder = "efficientnet_lite0"\n'
    )
    with pytest.raises(InputError) as caught:
        ablate_file(config, variants)
    assert caught.value.code == code and not (tmp_path / "o").exists()
