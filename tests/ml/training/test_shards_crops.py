"""Crops of a corpus are those of the slide, and whatever was damaged is found when it is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from ml.errors import InputError
from ml.inference.crops import crop
from ml.io.celltable import CellTable
from ml.io.slides import open_slide, write_pyramid
from ml.training.shards.gather import CorpusBatch
from ml.training.shards.loader import CorpusLoader, LoaderConfig
from ml.training.shards.order import Plan
from ml.training.shards.reader import Corpus
from tests.ml.training.corpora import Said, built, write_study

CROPS = LoaderConfig(Plan(batch=32), crops=True)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("converted") / "study", slides=1, cells=80)


@pytest.fixture(scope="module")
def corpora(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("corpora")
    return {
        kind: built(folder / kind, study, crops=kind, shard_cells=50, jpeg_quality=95)
        for kind in ("jpeg", "uint8")
    }


def batches(place: Path | str, **how: object) -> list[CorpusBatch]:
    return list(CorpusLoader(Corpus(place, **how), CROPS))


@pytest.mark.parametrize(("kind", "off"), [("uint8", 0), ("jpeg", 6)])
def test_crops_are_direct_reads_of_the_slide(
    study: Path, corpora: dict[str, Path], kind: str, off: float
) -> None:
    """At the border too: two of the cells lie in corners of the slide."""
    xy = CellTable.open(study / "cells/S0.zarr").xy()
    slide = open_slide(study / "slides/S0.tif")
    rows = []
    for batch in batches(corpora[kind]):
        assert batch.context is not None and batch.cell is not None
        for i, row in enumerate(batch.row.tolist()):
            rows.append(row)
            for got, side, pixels in ((batch.context[i], 112, 224), (batch.cell[i], 28, 112)):
                wanted = crop(slide, *xy[row].tolist(), side, 0.5, pixels)
                assert got.shape == wanted.shape
                assert np.abs(got.numpy().astype(int) - wanted).mean() <= off
    assert sorted(rows) == list(range(80))


@pytest.mark.parametrize("mpp", [0.2125, 0.25, 0.5, 1.0])
def test_crops_are_centred_within_half_a_pixel_whatever_the_resolution(
    tmp_path: Path, mpp: float
) -> None:
    """A dot of 4 µm around each cell, some of them at the very border of the slide."""
    study = write_study(tmp_path / "study", slides=1, cells=12, mpp=mpp)
    xy = CellTable.open(study / "cells/S0.zarr").xy()
    # A second dot in a crop, or the mirror image of its own, would move the centre of gravity. In a
    # corner, the mirror images complete the dot.
    between = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1)) + 1e9 * np.eye(12)
    border = np.minimum(xy, [900, 700] - xy).min(1) * mpp
    alone = (between.min(1) * mpp > 22) & ((border > 8.5) | (np.arange(12) < 2))
    y, x = np.mgrid[:700, :900] + 0.5
    near = np.min([np.hypot(x - cx, y - cy) for cx, cy in xy], axis=0) * mpp
    ink = np.clip((2.0 - near) / mpp + 0.5, 0, 1)
    image = np.repeat((255 * (1 - ink)).astype(np.uint8)[:, :, None], 3, axis=2)
    (study / "slides/S0.tif").unlink()
    write_pyramid(image, study / "slides/S0.tif", mpp=mpp, mpp_source="a ruler")
    corpus = built(tmp_path / "corpus", study, crops="uint8")
    corners = 0
    for batch in batches(corpus):
        assert batch.cell is not None and batch.context is not None
        for i, row in enumerate(batch.row.tolist()):
            if not alone[row]:
                continue
            corners += row < 2
            assert gravity(batch.cell[i].numpy()) == pytest.approx((56, 56), abs=0.5)
            middle = batch.context[i].numpy()[84:140, 84:140]  # 28 µm: no other dot
            assert gravity(middle) == pytest.approx((28, 28), abs=0.5)
    assert corners == 2


def gravity(image: np.ndarray) -> tuple[float, float]:
    """Centre of gravity of the ink in pixels, where the middle of n pixels is n/2."""
    ink = np.clip(200 - image.astype(float).mean(2), 0, None)
    y, x = np.mgrid[: len(ink), : len(ink)] + 0.5
    return float((ink * x).sum() / ink.sum()), float((ink * y).sum() / ink.sum())


@pytest.mark.parametrize(("suffix", "crops"), [(".safetensors", False), (".crops", True)])
@pytest.mark.parametrize("kind", ["jpeg", "uint8"])
def test_a_corrupt_shard_is_named_with_its_remedy(
    corpora: dict[str, Path], tmp_path: Path, kind: str, suffix: str, crops: bool
) -> None:
    place = shutil.copytree(corpora[kind], tmp_path / "corpus")
    file = next(place.glob(f"??/*{suffix}"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(CorpusLoader(Corpus(place), LoaderConfig(Plan(batch=32), crops=crops)))
    assert caught.value.code == "corpus.damaged_shard"
    assert f"{file.stem} (slide S0 of study s)" in caught.value.where
    assert "past corpus build" in caught.value.remedy
    with pytest.raises(InputError, match="is not what was written"):
        Corpus(place).verify(Said())
    file.write_bytes(content[:-9])
    with pytest.raises(InputError, match="bytes, not"):
        batches(place)
    file.unlink()
    with pytest.raises(InputError, match="is missing"):
        batches(place)


def test_crops_must_be_there_to_be_read(study: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        batches(built(tmp_path / "corpus", study))
    assert caught.value.code == "corpus.no_crops"
    with pytest.raises(InputError) as caught:
        Corpus(tmp_path)
    assert caught.value.code == "corpus.unreadable"


def test_a_remote_corpus_reads_like_a_local_one(corpora: dict[str, Path], tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(corpora["jpeg"]), "/remote-corpus", recursive=True)
    url, cache = "memory://remote-corpus", tmp_path / "cache"
    local, remote = batches(corpora["jpeg"]), batches(url, cache=cache)
    for a, b in zip(local, remote, strict=True):
        assert (a.tokens == b.tokens).all() and (a.context == b.context).all()
    # What is fetched damaged is not kept.
    shutil.rmtree(cache)
    path = files.glob("/remote-corpus/??/*.safetensors")[0]
    files.pipe_file(path, files.cat_file(path)[:-1] + b"?")
    with pytest.raises(InputError) as caught:
        batches(url, cache=cache)
    assert caught.value.code == "corpus.damaged_shard"
    assert not list(cache.rglob("*.part"))
