"""What `past corpus build` writes, and that it writes it whole or not at all."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from ml.errors import InputError
from ml.io.celltable import CellTable
from ml.io.slides import write_pyramid
from ml.io.store import content_hash
from ml.tokens.files import VocabularyFile
from ml.tokens.rank import rank_tokens
from ml.tokens.vocabulary import Vocabulary
from ml.training.shards.build import build_corpus
from ml.training.shards.commands import add_commands
from ml.training.shards.layout import Manifest, Settings
from ml.training.shards.reader import Corpus
from ml.training.shards.sources import Source, read_sources
from tests.ml.evaluation.test_audit import tissue
from tests.ml.training.corpora import GENES, Said, built, files_of, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("converted") / "study", silent=3)


@pytest.fixture(scope="module")
def corpus(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cut small: three shards a slide, so that neighbours lie across their bounds."""
    return built(tmp_path_factory.mktemp("corpora") / "corpus", study, shard_cells=60)


def rows_of(corpus: Corpus, index: int) -> np.ndarray:
    shard = corpus.shard(index)
    return shard.arrays["row"][: len(shard)].astype(int)


def test_every_cell_with_tokens_is_in_one_shard_and_the_others_are_reported(
    study: Path, tmp_path: Path
) -> None:
    report = Said()
    result = build_corpus(
        tmp_path / "corpus", read_sources(study), report, settings=Settings("none", shard_cells=60)
    )
    assert result == {"cells": 294, "left_out": 6, "slides": 2, "shards": 6, "added": 2}
    assert "study s, slide S0: 3 of 150 rows express no gene" in " ".join(report.lines)
    opened = Corpus(tmp_path / "corpus")
    for slide in (0, 1):
        shards = [i for i, s in enumerate(opened.manifest.shards) if s.slide == slide]
        rows = np.concatenate([rows_of(opened, i) for i in shards])
        assert sorted(rows) == list(range(3, 150))
        assert opened.manifest.slides[slide].left_out == 3


def test_tokens_and_counts_of_every_cell_are_the_tables(study: Path, corpus: Path) -> None:
    opened = Corpus(corpus)
    vocabulary = opened.vocabulary.technology("Xenium")
    for index, record in enumerate(opened.manifest.shards):
        table = CellTable.open(study / f"cells/S{record.slide}.zarr")
        counts = table.counts()
        expected = rank_tokens(counts, vocabulary, len(GENES))
        shard = opened.shard(index)
        for at, row in enumerate(shard.arrays["row"]):
            place = slice(shard.starts[at], shard.starts[at + 1])
            ids = shard.ids[place].astype(int)
            assert ids.tolist() == expected[row][: len(ids)].tolist()
            assert (shard.counts[place] == counts[row].toarray()[0][ids - 30]).all()
            assert shard.counts[place].sum() == table.totals()[row]
        assert shard.ids.dtype == np.uint16


def test_neighbours_are_the_nearest_of_the_slide_across_shards(study: Path, corpus: Path) -> None:
    opened = Corpus(corpus)
    halos = 0
    for index, record in enumerate(opened.manifest.shards):
        xy = CellTable.open(study / f"cells/S{record.slide}.zarr").xy().astype(float) * 0.5
        xy[:3] = 1e6  # cells without tokens are nobody's neighbours
        arrays = opened.shard(index).arrays
        halos += record.halo
        for at in range(record.rows):
            row = int(arrays["row"][at])
            distance, nearest = cKDTree(xy).query(xy[row], k=9, distance_upper_bound=112)
            near = arrays["neighbours"][at]
            found = arrays["row"][near[near >= 0]]
            wanted = [n for n, d in zip(nearest, distance, strict=True) if n != row and d < 112]
            assert found.tolist() == wanted
            there = np.isfinite(distance[1:])
            assert np.allclose(arrays["distances"][at][there], distance[1:][there], atol=1e-3)
            assert np.allclose(arrays["xy_um"][at], xy[row])
    assert halos > 0


def test_a_cell_takes_less_than_a_kilobyte(tmp_path: Path) -> None:
    corpus = Corpus(built(tmp_path / "c", write_study(tmp_path / "s", cells=400)))
    size = sum(shard.files[".safetensors"][1] for shard in corpus.manifest.shards)
    assert size / len(corpus) < 300
    assert [p.suffix for p in (tmp_path / "c").glob("??/*")] == [".safetensors"] * 2


def test_ids_name_patients_sites_and_technologies(corpus: Path) -> None:
    manifest = Corpus(corpus).manifest
    assert manifest.ids() == {
        "patient": ["s/P0", "s/P1"], "site": ["s/A", "s/B"], "technology": ["Xenium"],
    }  # fmt: skip
    assert Manifest.from_json(manifest.as_json(), "here") == manifest


def test_appending_adds_shards_and_changes_none(study: Path, tmp_path: Path) -> None:
    out = built(tmp_path / "corpus", study)
    before = files_of(out)
    # A study is brought to the corpus's vocabulary.
    more = write_study(tmp_path / "more", "t", 1, seed=9, genes=[*GENES[5:], "NEW"])
    report = Said()
    result = build_corpus(
        out, [*read_sources(study, "Xenium"), *read_sources(more, "Xenium")], report
    )
    after = files_of(out)
    assert (result["slides"], result["added"]) == (3, 1)
    assert {k: v for k, v in after.items() if k in before and k != "corpus.json"} == {
        k: v for k, v in before.items() if k != "corpus.json"
    }
    assert "study t, slide S0: 1 genes are not in the vocabulary." in report.lines
    opened = Corpus(out)
    assert opened.manifest.slides[2].study == "t"
    measured = opened.manifest.measured(40)
    assert measured[:2].all() and np.flatnonzero(measured[2]).tolist() == list(range(5, 40))


def refused(code: str, out: Path, *studies: Path, **how: object) -> InputError:
    """The error of a build that must leave the corpus as it was."""
    before = files_of(out)
    sources = [source for study in studies for source in read_sources(study, "Xenium")]
    with pytest.raises(InputError) as caught:
        build_corpus(out, sources, Said(), **how)
    assert caught.value.code == code
    assert files_of(out) == before
    return caught.value


def test_another_vocabulary_or_setting_is_refused(study: Path, tmp_path: Path) -> None:
    out = built(tmp_path / "corpus", study)
    other = VocabularyFile(("",) * 40, tuple(reversed(GENES)), {"Xenium": np.ones(40)})
    more = write_study(tmp_path / "more", "t", 1, seed=9)
    refused("corpus.other_vocabulary", out, more, vocabulary=other)
    error = refused("corpus.other_settings", out, more, settings=Settings(crops="jpeg"))
    assert "crops none" in error.what
    (out / "vocabulary/genes.csv").write_text("gene_id,symbol,Xenium\n")
    refused("corpus.vocabulary_damaged", out, more)


def test_the_same_cells_do_not_come_in_twice(study: Path, tmp_path: Path) -> None:
    out = built(tmp_path / "corpus", study)
    refused("corpus.same_cells", out, write_study(tmp_path / "copy", "copy", silent=3))
    refused("corpus.slide_changed", out, write_study(tmp_path / "changed", seed=5))


def test_a_folder_with_other_files_is_refused(study: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused("corpus.folder_in_use", tmp_path, study)
    with pytest.raises(InputError, match=r"no result\.json"):
        read_sources(tmp_path)


BUILD = """
import sys, time
from pathlib import Path
from ml.training.shards import build, layout
from tests.ml.training.corpora import built
fsync = layout.os.fsync
def slow(descriptor):  # so that the killer has time to hit every stage
    fsync(descriptor); time.sleep(0.05)
layout.os.fsync = slow
built(Path(sys.argv[1]), Path(sys.argv[2]), crops="jpeg", shard_cells=40)
"""


@pytest.mark.parametrize("files", [1, 3, 8])
def test_a_killed_build_goes_on_and_ends_like_an_undisturbed_one(
    tmp_path: Path, files: int
) -> None:
    study = write_study(tmp_path / "study", cells=100)
    whole = built(tmp_path / "whole", study, crops="jpeg", shard_cells=40)
    out = tmp_path / "corpus"
    child = subprocess.Popen([sys.executable, "-c", BUILD, str(out), str(study)])
    deadline = time.monotonic() + 60
    while len(list(out.glob("??/[!.]*"))) < files and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert child.returncode == -signal.SIGKILL
    # A reader sees whole slides or none.
    reader = Corpus(out)
    reader.verify(Said())
    assert len(reader) in (0, 100)
    finished = {note.name for note in (out / ".unfinished").glob("[!.]*")}
    finished |= {shard.name for shard in reader.manifest.shards}
    kept = {p: p.stat().st_mtime_ns for name in finished for p in out.glob(f"??/{name}.*")}
    built(out, study, crops="jpeg", shard_cells=40)
    assert len(kept) >= files - 2
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert files_of(out) == files_of(whole)
    assert not list(out.rglob("*.part"))


def test_missing_files_are_written_again(study: Path, tmp_path: Path) -> None:
    out = built(tmp_path / "corpus", study, shard_cells=60)
    before = files_of(out)
    next(out.glob("??/*")).unlink()
    assert build_corpus(out, read_sources(study, "Xenium"), Said())["added"] == 0
    assert files_of(out) == before


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    given = parser.parse_args(words)
    return int(given.run(given))


def test_the_command_builds_shows_and_verifies(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "corpus")
    assert main(["corpus", "build", out, str(study), "--crops", "none", "--slides", "S1"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == 147
    assert main(["corpus", "build", out, str(study), "--technology", ""]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 1
    assert main(["corpus", "show", out]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["cells"], shown["patients"], shown["settings"]["crops"]) == (294, 2, "none")
    assert main(["corpus", "verify", out]) == 0
    with pytest.raises(InputError, match="corpus was built with crops none"):
        main(["corpus", "build", out, str(study), "--crops", "uint8"])


class TestVocabularyOfSlides:
    """Which means a slide is tokenised with, and which slides the means were fitted to."""

    @pytest.fixture
    def two(self, tmp_path: Path) -> list[Source]:
        """A slide of each of two technologies."""
        first = read_sources(write_study(tmp_path / "x", "x", 1, seed=1), "Xenium")
        second = read_sources(write_study(tmp_path / "c", "c", 1, seed=2), "CosMx")
        return [*first, *second]

    def test_each_technology_has_means_of_its_own(self, two: list[Source], tmp_path: Path) -> None:
        build_corpus(tmp_path / "corpus", two, Said(), settings=Settings("none"))
        corpus = Corpus(tmp_path / "corpus")
        assert list(corpus.vocabulary.means) == ["Xenium", "CosMx"]
        for index, source in enumerate(two):
            own = corpus.vocabulary.technology(source.technology)
            table = CellTable.open(source.table)
            assert own.nonzero_means == pytest.approx(
                Vocabulary.fit(table.counts(), table.symbols).nonzero_means, rel=1e-6
            )
            shard = corpus.shard(index)
            expected = rank_tokens(table.counts(), own, len(GENES))[shard.arrays["row"][0]]
            assert shard.ids[: shard.starts[1]].tolist() == expected[expected >= 30].tolist()

    def test_means_are_of_the_slides_that_were_named(
        self, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, words = tmp_path / "corpus", ["--crops", "none", "--technology", "Xenium"]
        assert (
            main(["corpus", "build", str(out), str(study), *words, "--fit-on-patients", "P1"]) == 0
        )
        corpus = Corpus(out)
        (fitted,) = corpus.manifest.vocabulary_from["tables"]
        table = study / "cells/S1.zarr"
        assert (fitted["patient"], fitted["slide"]) == ("P1", "S1")
        assert fitted["sha256"] == content_hash(table)[0]
        assert corpus.vocabulary.means["Xenium"] == pytest.approx(
            Vocabulary.fit(CellTable.open(table).counts(), GENES).nonzero_means, rel=1e-6
        )
        with pytest.raises(InputError, match="fitted to other slides"):
            main(["corpus", "build", str(out), str(study), *words, "--fit-on-slides", "S0"])
        with pytest.raises(InputError, match="no such measured patient: Q7"):
            main(["corpus", "build", str(out), str(study), *words, "--fit-on-patients", "Q7"])

    def test_a_vocabulary_file_is_used_as_it_is(self, two: list[Source], tmp_path: Path) -> None:
        given = VocabularyFile(("",) * 40, tuple(reversed(GENES)), {"Xenium": np.arange(1.0, 41)})
        given.save(tmp_path / "vocabulary")
        place = tmp_path / "x"
        words = ["corpus", "build", str(tmp_path / "corpus"), str(place), "--crops", "none"]
        words += ["--vocabulary", str(tmp_path / "vocabulary")]
        with pytest.raises(InputError, match="has the means of Xenium") as caught:
            main(words)
        assert (caught.value.code, "--technology Xenium" in caught.value.remedy) == (
            "corpus.no_technology", True,
        )  # fmt: skip
        with pytest.raises(InputError, match="technology is Xenia") as caught:
            main([*words, "--technology", "Xenia"])
        assert caught.value.code == "corpus.unknown_technology"
        assert not (tmp_path / "corpus/corpus.json").exists()
        assert main([*words, "--technology", "Xenium"]) == 0
        assert Corpus(tmp_path / "corpus").vocabulary.symbols == given.symbols
        with pytest.raises(InputError, match="technology is CosMx"):
            build_corpus(tmp_path / "corpus", two, Said())


def test_a_corpus_knows_which_slides_look_alike(tmp_path: Path) -> None:
    """A slide that is there again under another name, turned, and with other cells."""
    study = write_study(tmp_path / "study", slides=3, mpp=8.0)
    turned = np.ascontiguousarray(np.rot90(tissue(0), 2))
    for number, pixels in enumerate((tissue(0), tissue(1), turned)):
        write_pyramid(pixels, study / f"slides/S{number}.tif", mpp=8.0, mpp_source="a ruler")
    out = built(tmp_path / "corpus", study, crops="jpeg")
    manifest = Corpus(str(out)).manifest
    assert manifest.compared == [0, 1, 2]
    ((first, second, value),) = manifest.alike
    assert (first, second) == (0, 2) and value > 0.9
