"""Planted leaks of each kind, and none where there is none."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ml.errors import InputError
from ml.evaluation.audit import audit_images, audit_statistics
from ml.evaluation.audit_study import audit_study
from ml.evaluation.look_alikes import ALIKE, Picture, look_alikes, similarity
from ml.models import checkpoint
from ml.tokens.vocabulary import Vocabulary
from ml.training.corpus import Corpus
from ml.training.prepare import SectionInput, read_images, read_tables
from ml.training.run import run
from tests.ml.conftest import Recorder, sections

PATIENTS = "held-out patients"


def tissue(seed: int, height: int = 220, width: int = 240) -> NDArray[np.uint8]:
    """A made-up overview: an oval of tissue with structure of several sizes on white glass."""
    rng = np.random.default_rng(seed)
    waves = [ndimage.gaussian_filter(rng.normal(size=(height, width)), s) * s for s in (2, 5, 11)]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    grey = 150 + 60 * np.tanh(sum(waves))
    colour = grey[..., None] * np.array([1.0, 0.7, 0.9])
    colour[x**2 + y**2 > 0.8] = 245
    return colour.clip(0, 255).astype(np.uint8)


def compressed(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "JPEG", quality=40)
    return np.asarray(Image.open(kept))


def picture(pixels: NDArray[np.uint8], code: str = "x") -> Picture:
    return Picture.of_overview(code, pixels)


CHANGES = {
    "compressed": compressed,
    "turned": lambda p: np.rot90(p),
    "mirrored": lambda p: p[:, ::-1],
    "another stain": lambda p: (p * [0.9, 1.1, 0.8] + 8).clip(0, 255).astype(np.uint8),
    "another focus": lambda p: ndimage.gaussian_filter(p, (1, 1, 0)),
    "on a larger slide": lambda p: np.pad(p, ((30, 9), (4, 80), (0, 0)), constant_values=245),
    "half of it": lambda p: p[:, :120],
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_same_tissue_is_found(name: str) -> None:
    original = tissue(3)
    changed = np.ascontiguousarray(CHANGES[name](original))
    assert similarity(picture(original), picture(changed)) > ALIKE + 0.2


def test_cut_outs_that_overlap_by_half_are_found() -> None:
    original = tissue(4, 300, 300)
    left, right = picture(original[:, :200]), picture(original[:, 100:])
    assert similarity(left, right) > ALIKE


def test_other_tissue_is_not_alike() -> None:
    pictures = [picture(tissue(seed), str(seed)) for seed in range(12)]
    found, highest = look_alikes(pictures[:4], pictures[4:])
    assert not found and 0 < highest < ALIKE


def test_a_picture_too_small_says_nothing() -> None:
    small = picture(tissue(1, 50, 50), "small")
    assert small.too_small and similarity(small, picture(tissue(1))) == 0.0
    said = audit_images({"train": [picture(tissue(1))], "test": [small]}, PATIENTS)
    assert said["too_small"] == ["small"] and said["pairs"] == 0


def test_the_same_tissue_in_two_parts_is_refused() -> None:
    first, second = tissue(1), tissue(2)
    parts = {"train": [picture(first, "A")], "test": [picture(second, "B")]}
    said = audit_images(parts, PATIENTS)
    assert said["pairs"] == 1 and said["highest_similarity"] < said["limit"] == ALIKE
    parts["test"].append(picture(compressed(np.rot90(first)), "C"))
    with pytest.raises(InputError, match="same tissue") as caught:
        audit_images(parts, PATIENTS)
    assert caught.value.code == "split.look_alike" and "A" in caught.value.where


def test_sections_of_one_block_may_be_alike_where_only_sections_are_held_out() -> None:
    one = audit_images({"train": [], "test": []}, "held-out section of the same patient")
    assert one["limit"] > ALIKE


def test_training_says_what_was_audited(trained: dict[str, Any]) -> None:
    audited = trained["result"]["metrics"]["audit"]
    assert audited["images"]["pairs"] > 0
    assert audited["images"]["highest_similarity"] < audited["images"]["limit"]
    assert max(audited["statistics"].values()) < 1e-6 and len(audited["statistics"]) == 5


def test_training_refuses_a_copy_of_a_training_slide_under_another_patient(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    given = sections(tiny)
    source = next(s for s in given if s["part"] == "train")
    target = next(s for s in given if s["part"] == "test")
    target |= {"slide": source["slide"], "mpp": source["mpp"], "slide_sha256": "of another file"}
    inputs = {"sections": given, "parent": None, "work": str(tmp_path / "work")}
    with pytest.raises(InputError) as caught:
        run({"preset": "tiny", "epochs": 1}, inputs, tmp_path / "out", Recorder())
    assert caught.value.code == "split.look_alike"
    assert source["slide_code"] in caught.value.where
    assert not (tmp_path / "out/model").exists()


@pytest.fixture(scope="module")
def fitted(tiny: dict[str, Any], trained: dict[str, Any]) -> tuple[Any, Corpus, Corpus]:
    """The trained model, its training part, and the same with the test part."""
    model = checkpoint.load(trained["out"] / "model")
    given = [SectionInput.of(section) for section in sections(tiny)]
    tables = read_tables(given, panel=list(model.config.vocabulary.symbols))
    read = read_images(tables, model.config, Path(trained["inputs"]["work"]), Recorder())
    train = [s for s in read if s.part == "train"]
    more = train + [s for s in read if s.part == "test"]
    return model, Corpus(train, model.config), Corpus(more, model.config)


LEAKS = ("vocabulary", "genes", "features")


@pytest.mark.parametrize("leak", LEAKS)
def test_what_was_fitted_to_the_test_part_too_is_found(
    fitted: tuple[Any, Corpus, Corpus], trained: dict[str, Any], leak: str
) -> None:
    _, train, more = fitted
    model = checkpoint.load(trained["out"] / "model")
    audit_statistics(model, train)
    if leak == "vocabulary":
        vocabulary = Vocabulary.fit(more.counts, list(model.config.vocabulary.symbols))
        object.__setattr__(model.config, "vocabulary", vocabulary)
    elif leak == "genes":
        mean, _ = more.expression_moments()
        model.networks()[0].expression_head.mean.copy_(torch.from_numpy(mean))
    else:
        mean, _ = more.feature_moments()
        model.feature_mean.copy_(torch.from_numpy(mean))
    with pytest.raises(InputError, match="something else took part") as caught:
        audit_statistics(model, train)
    assert caught.value.code == "split.statistic_leak"


class TestCommand:
    """`past audit STUDY`."""

    @pytest.fixture
    def study(self, tiny: dict[str, Any], tmp_path: Path) -> Path:
        folder = tmp_path / "study"
        shutil.copytree(tiny["folder"], folder)
        said = {k: v for k, v in tiny.items() if k != "folder"}
        (folder / "result.json").write_text(json.dumps(said, default=str))
        return folder

    def test_of_a_study(self, study: Path, tmp_path: Path) -> None:
        found = audit_study(study, None, tmp_path, Recorder())
        assert found["scope"] == PATIENTS and set(found["slides"]) == set(found["patients"])
        assert "statistics" not in found and found["images"]["pairs"] > 0

    def test_of_a_model(self, study: Path, trained: dict[str, Any], tmp_path: Path) -> None:
        found = audit_study(study, trained["out"] / "model", tmp_path, Recorder())
        assert max(found["statistics"].values()) < 1e-6
        parts = [s["part"] for s in sections_of(trained)]
        assert found["slides"] == {part: parts.count(part) for part in sorted(set(parts))}

    def test_of_a_model_of_other_slides(
        self, study: Path, trained: dict[str, Any], tmp_path: Path
    ) -> None:
        first = sections_of(trained)[0]["slide_code"]
        said = json.loads((study / "result.json").read_text())
        said["slides"] = [s for s in said["slides"] if s["code"] != first]
        (study / "result.json").write_text(json.dumps(said))
        with pytest.raises(InputError) as caught:
            audit_study(study, trained["out"] / "model", tmp_path, Recorder())
        assert caught.value.code == "audit.other_slides" and first in caught.value.what

    def test_without_parts(self, study: Path, tmp_path: Path) -> None:
        said = json.loads((study / "result.json").read_text())
        said["patients"] = [{**p, "part": None} for p in said["patients"]]
        (study / "result.json").write_text(json.dumps(said))
        with pytest.raises(InputError) as caught:
            audit_study(study, None, tmp_path, Recorder())
        assert caught.value.code == "audit.no_parts" and "--model" in caught.value.remedy


def sections_of(trained: dict[str, Any]) -> list[dict[str, Any]]:
    return list(trained["result"]["config"]["provenance"]["sections"])
