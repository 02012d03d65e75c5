"""Training on a corpus of shards: its start, its order, its scores, and that it can be resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ml.errors import InputError
from ml.evaluation.metrics import within_groups
from ml.evaluation.retrieval import CANDIDATES
from ml.io.celltable import CellTable
from ml.models import checkpoint
from ml.models.batches import CropBatch
from ml.models.config import Architecture
from ml.report import SilentReport
from ml.training import start_from_shards
from ml.training.distributed import Ranks
from ml.training.from_shards import ShardSource, ShardTraining
from ml.training.held_out import HeldOut
from ml.training.parts import Parts
from ml.training.settings import Settings
from ml.training.shards.build import build_corpus
from ml.training.shards.chosen import CellList, batches
from ml.training.shards.layout import Settings as CorpusSettings
from ml.training.shards.reader import Corpus
from ml.training.shards.sources import read_sources
from ml.training.shards.to_model import ToModel
from ml.training.start_from_shards import Moments, fit_moments
from ml.training.train_file import train_file
from tests.ml.training.corpora import GENES, Said, write_study
from tests.ml.training.tiny import NAME, SMALL, history, write_config

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
EVERY_STEP = {"log_every": 1, "checkpoint_minutes": 0.0, "clip": 5.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of three patients with one panel and one with another; means of P0 and P3 alone."""
    folder = tmp_path_factory.mktemp("shards")
    first = read_sources(write_study(folder / "s", slides=3, cells=40), "Xenium")
    # The first genes are not measured, and one is that no other slide has.
    other = write_study(folder / "t", "t", 1, 30, genes=GENES[6:], seed=4)
    sources = [*first, *read_sources(other, "Xenium")]
    build_corpus(
        folder / "corpus", sources, Said(), fit_on=[sources[0], sources[3]],
        settings=CorpusSettings("jpeg", shard_cells=25),
    )  # fmt: skip
    return folder


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    return Corpus(folder / "corpus")


def job(corpus: Corpus, parts: Parts, **changes: object) -> ShardTraining:
    usual = ShardTraining(corpus, parts, NAME, replace(Architecture(), **SMALL), Settings(batch=7))
    return replace(usual, **changes)


ALL = Parts((0, 1, 2, 3), (), (), "held-out patients")


def run(
    config: Path, *, processes: int = 1, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Trains in processes of their own, as a user would start them."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    words = [sys.executable, *(torchrun if processes > 1 else []), "-m", "tests.ml.training.tiny"]
    return subprocess.run(
        [*words, str(config)], cwd=ROOT, check=check, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip


def expression(corpus: Corpus, slides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """log1p counts per 10,000 of all cells of some slides from their shards' arrays, and slides."""
    rows, of = [], []
    for index, record in enumerate(corpus.manifest.shards):
        if record.slide in slides:
            shard = corpus.shard(index)
            for i in range(len(shard)):
                place = slice(int(shard.starts[i]), int(shard.starts[i + 1]))
                counts = np.zeros(len(corpus.vocabulary))
                counts[shard.ids[place].astype(int) - 30] = shard.counts[place]
                rows.append(np.log1p(counts * 1e4 / counts.sum()))
                of.append(record.slide)
    return np.array(rows), np.array(of)


class TestBatches:
    """What the networks see of a batch."""

    def test_counts_panels_and_neighbours_are_the_corpus(
        self, corpus: Corpus, folder: Path
    ) -> None:
        model = ToModel(corpus, Architecture(neighbours=3, radius_um=30.0), CPU)
        cells = CellList(corpus, (0, 3))
        (batch,) = batches(cells, [np.array([2, 5, 44, 60])], 20, crops=True)
        found = model.cells(batch)
        symbols = corpus.vocabulary.symbols
        for i, (slide, row) in enumerate(zip(batch.slide, batch.row, strict=True)):
            name = ["s/cells/S0.zarr", "", "", "t/cells/S0.zarr"][int(slide)]
            table = CellTable.open(folder / name)
            counts = table.counts()[int(row)].toarray()[0]
            place = [symbols.index(symbol) for symbol in table.symbols]
            expected = np.zeros(len(symbols))
            expected[place] = counts
            assert found.counts[i].tolist() == expected.tolist()
            assert found.totals[i] == counts.sum()
            assert found.measured is not None
            assert sorted(np.flatnonzero(found.measured[i]).tolist()) == sorted(place)
        assert found.neighbour_tokens.shape[:2] == (4, 3) == found.absent.shape
        far = batch.neighbour_distance[:, :3] > 30
        assert bool(far.any()) and bool((found.absent >= far).all())
        crops = model.crops(batch)
        assert crops.context.shape == (4, 224, 224, 3) and crops.cell.dtype == torch.uint8

    def test_more_neighbours_than_the_corpus_has_are_refused(self, corpus: Corpus) -> None:
        with pytest.raises(InputError, match="built with 8") as caught:
            ToModel(corpus, Architecture(neighbours=9), CPU)
        assert caught.value.code == "corpus.neighbours"

    @pytest.mark.parametrize("by_length", [False, True])
    def test_every_cell_comes_once_an_epoch_over_two_ranks(
        self, corpus: Corpus, by_length: bool
    ) -> None:
        work = job(corpus, ALL, by_length=by_length)
        sources = [
            ShardSource(work, ToModel(corpus, work.architecture, CPU), 5, Ranks(rank, 2))
            for rank in (0, 1)
        ]
        orders = []
        for epoch in (0, 1):
            assert sources[0].steps(epoch) == sources[1].steps(epoch) == 11  # 150 cells, 2 × 7
            rounds = list(zip(*(source.batches(epoch, 0) for source in sources), strict=True))
            seen: list[tuple[str, int]] = []
            for both in rounds:
                assert both[0].total == both[1].total == sum(map(len, both))
                assert len(both[0]) == Ranks(0, 2).share(both[0].total)
                for batch in both:
                    seen += [(slide, r) for slide, rows in batch.where().items() for r in rows]
            assert len(seen) == len(set(seen)) == 150
            orders.append([both[0].where() for both in rounds])
        assert orders[0] != orders[1]
        # From the middle of an epoch on it is the same.
        rest = [batch.where() for batch in sources[0].batches(1, 6)]
        assert rest == orders[1][6:]


class TestStart:
    """Gene statistics and programmes of the training cells."""

    SLIDES = (0, 2, 3)

    def moments(self, corpus: Corpus, rank: int = 5) -> Moments:
        model = ToModel(corpus, Architecture(), CPU)
        cells = CellList(corpus, self.SLIDES)
        return fit_moments(cells, model, rank, 0, 0, SilentReport(), Ranks())

    def test_they_are_those_of_the_training_slides(self, corpus: Corpus) -> None:
        found = self.moments(corpus)
        values, slide = expression(corpus, self.SLIDES)
        measured = corpus.manifest.measured(len(corpus.vocabulary))[slide]
        n = measured.sum(0)
        mean = values.sum(0) / n
        scale = np.sqrt((values**2).sum(0) / n - mean**2)
        assert found.cells == len(values) == 110
        assert np.allclose(found.mean, mean, atol=1e-5)
        assert np.allclose(found.scale, scale, atol=1e-4)
        assert found.expressed == (values > 0).sum(1).max()
        z = (values - mean) / scale * measured
        _, vectors = np.linalg.eigh(z.T @ z)
        agreement = np.abs((vectors[:, ::-1][:, :5].T * found.loadings).sum(1))
        assert np.allclose(agreement, 1, atol=1e-3)
        top = np.abs(found.loadings).argmax(1)
        assert (found.loadings[np.arange(5), top] > 0).all()

    def test_many_genes_take_a_sample_and_give_the_same_space(
        self, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exact = self.moments(corpus)
        monkeypatch.setattr(start_from_shards, "COVARIANCE_GENES", 10)
        sampled = self.moments(corpus)
        values, slide = expression(corpus, self.SLIDES)
        measured = corpus.manifest.measured(len(corpus.vocabulary))[slide]
        z = (values - exact.mean) / exact.scale * measured
        spread = [float(((z @ m.loadings.T) ** 2).sum()) for m in (sampled, exact)]
        assert spread[0] == pytest.approx(spread[1], rel=0.01)
        assert np.allclose(sampled.loadings @ sampled.loadings.T, np.eye(5), atol=1e-4)
        monkeypatch.setattr(start_from_shards, "SAMPLE", 60)
        assert self.moments(corpus).programme_cells == 60

    def test_no_training_cell_is_refused(self, folder: Path) -> None:
        silent = write_study(folder / "silent", "q", 2, 20, silent=20)
        build_corpus(
            folder / "silent-corpus", read_sources(silent, "Xenium"), Said(),
            settings=CorpusSettings("jpeg"),
        )  # fmt: skip
        assert len(Corpus(folder / "silent-corpus")) == 0
        config = write_config(folder / "silent.toml", data={"corpus": "silent-corpus"})
        with pytest.raises(InputError, match="No cell has a count") as caught:
            train_file(config)
        assert caught.value.code == "train.no_counts"


class TestHeldOut:
    """Scores that add up over batches and ranks."""

    def scores(self, corpus: Corpus):  # type: ignore[no-untyped-def]
        rng = np.random.default_rng(0)
        noise = torch.from_numpy(rng.normal(size=(200, len(corpus.vocabulary)))).float()
        model = ToModel(corpus, Architecture(), CPU)
        held = HeldOut(
            corpus, (1, 3), model, most=None, context=16, workers=0, contrast=True, ranks=Ranks()
        )
        seen: list[tuple[int, int]] = []

        def look(images, cells):  # type: ignore[no-untyped-def]
            assert len(images.context) == len(cells.totals)
            key = (cells.totals * 7).long() % 200
            seen.extend(zip(cells.slide.tolist(), cells.totals.tolist(), strict=True))
            unit = torch.nn.functional.normalize(noise[key], dim=1)
            return cells.counts.log1p() + noise[key], unit, unit

        return held.look(look), seen, noise

    def test_pearson_is_within_slides_over_measured_genes(self, corpus: Corpus) -> None:
        found, seen, noise = self.scores(corpus)
        assert found.cells == len(seen) == 70
        values, slide = expression(corpus, (1, 3))
        totals = []
        for index, record in enumerate(corpus.manifest.shards):
            if record.slide in (1, 3):
                shard = corpus.shard(index)
                starts = shard.starts[: len(shard) + 1].astype(int)
                totals += [int(shard.counts[a:b].sum()) for a, b in pairwise(starts)]
        counts = np.expm1(values) * np.array(totals)[:, None] / 1e4
        predicted = np.log1p(counts) + noise.numpy()[(np.array(totals) * 7) % 200]
        measured = corpus.manifest.measured(len(corpus.vocabulary))
        both = within_groups(predicted, values, slide)
        alone = within_groups(predicted[slide == 1], values[slide == 1], slide[slide == 1])
        expected = np.where(measured[3], both, alone)
        assert np.allclose(found.pcc, expected, atol=1e-5)

    def test_a_set_is_of_one_slide_and_partners_find_each_other(self, corpus: Corpus) -> None:
        found, _, _ = self.scores(corpus)
        # Cells with the same total share their vector and count half; all others are found.
        assert found.retrieval["image_to_gene_r10"] == found.retrieval["gene_to_image_r10"] == 1
        assert found.retrieval["sets"] == 2
        assert found.retrieval["chance_r10"] == pytest.approx(20 / 70)
        assert found.retrieval["chance_r5"] == pytest.approx(10 / 70)

    def test_genes_that_no_slide_measured_have_no_score(self, corpus: Corpus) -> None:
        model = ToModel(corpus, Architecture(), CPU)
        held = HeldOut(
            corpus, (3,), model, most=CANDIDATES, context=16, workers=0, contrast=False,
            ranks=Ranks(),
        )  # fmt: skip
        found = held.look(lambda images, cells: (cells.counts, None, None))
        missing = ~corpus.manifest.measured(len(corpus.vocabulary))[3]
        assert np.isnan(found.pcc[missing]).all() and missing.sum() == 6
        assert len(found.told) == len(GENES) - 6 and found.metrics()["n_genes"] == 34
        assert found.retrieval == {}


def split(**training: object) -> dict[str, dict[str, object]]:
    return {
        "data": {"validation": ["P1"], "test": ["s/P2"]},
        "training": {"epochs": 2, "batch": 16, **training},
        "optimisation": EVERY_STEP,
    }


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """An undisturbed training in a process of its own."""
    run(write_config(folder / "whole.toml", out="whole", **split()))
    return folder / "whole"


class TestRuns:
    """Whole trainings by their config files."""

    def test_what_a_run_leaves(self, whole: Path, folder: Path) -> None:
        record = json.loads((whole / "run.json").read_text())
        assert record["data"]["parts"] == {
            "train": ["s/S0", "t/S0"], "validation": ["s/S1"], "test": ["s/S2"],
        }  # fmt: skip
        assert record["data"]["manifest_sha256"] and record["data"]["vocabulary_sha256"]
        assert record["config"]["given"]["training"]["epochs"] == 2
        assert record["environment"]["torch"] == torch.__version__
        assert record["code"]["past"] and record["seeds"] == {"training": 0, "split": 0}
        (session,) = record["sessions"]
        assert session["started"] <= session["ended"] and session["ranks"] == 1
        metrics = json.loads((whole / "evaluation/metrics.json").read_text())
        assert metrics["test"]["n_rows"] == 40 and metrics["validation"]["n_genes"] == 40
        assert -1 <= metrics["test"]["pcc_median"] <= 1
        assert metrics["test"]["retrieval"]["chance_r1"] == pytest.approx(1 / 40)
        assert metrics["ood"]["threshold_from"] == "validation" and metrics["n_cells"] == 70
        table = (whole / "evaluation/per_gene.csv").read_text().splitlines()
        assert table[0] == "part,gene,pcc" and len(table) == 1 + 2 * 40
        assert not list(whole.rglob("*.part"))

    def test_the_model_that_was_saved_predicts(self, whole: Path, folder: Path) -> None:
        model = checkpoint.load(whole / "model")
        rng = np.random.default_rng(0)
        crops = CropBatch(
            *(torch.from_numpy(rng.integers(0, 255, (3, s, s, 3), np.uint8)) for s in (224, 112))
        )
        assert model.predict(crops).shape == (3, 40)
        assert model.density is not None and model.density.distance(model.described(crops)).all()
        values, slide = expression(Corpus(folder / "corpus"), (0, 3))
        mean = values.sum(0) / Corpus(folder / "corpus").manifest.measured(40)[slide].sum(0)
        assert np.allclose(model.networks()[0].expression_head.mean, mean, atol=1e-5)
        assert model.config.provenance["parts"]["test"] == ["s/S2"]
        assert model.config.vocabulary.symbols == Corpus(folder / "corpus").vocabulary.symbols

    def test_a_killed_run_ends_like_an_undisturbed_one(self, whole: Path, folder: Path) -> None:
        config = write_config(folder / "killed.toml", out="killed", **split())
        out = folder / "killed"
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.ml.training.tiny", str(config)], cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 120

        def at() -> int:
            state = out / "checkpoint/state.json"
            return json.loads(state.read_text())["progress"]["step"] if state.exists() else 0

        while at() < 2 and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        stopped = json.loads((out / "checkpoint/state.json").read_text())["progress"]
        assert child.returncode == -signal.SIGKILL and not (out / "model").exists()
        assert stopped["batch"] > 0, "it was to be killed within an epoch"
        run(config)
        assert [h["step"] for h in history(out)] == list(range(1, 11))
        assert history(out) == history(whole)
        for name in ("model/model.safetensors", "evaluation/per_gene.csv"):
            assert (out / name).read_bytes() == (whole / name).read_bytes()
        assert len(json.loads((out / "run.json").read_text())["sessions"]) == 2

    def test_two_processes_train_like_one_with_the_double_batch(self, folder: Path) -> None:
        # Without what is random in each rank: dropout and hidden genes.
        tables = {
            **split(), "architecture": {**SMALL, "dropout": 0.0},
            "losses": {"contrast": 0.0, "masked_gene": 0.0},
        }  # fmt: skip
        for out, processes, batch in (("one", 1, 16), ("two", 2, 8)):
            tables["training"] = {"epochs": 2, "batch": batch}
            run(write_config(folder / f"{out}.toml", out=out, **tables), processes=processes)
        one, two = (
            json.loads((folder / out / "run.json").read_text())["history"] for out in ("one", "two")
        )
        assert [h["train_loss"] for h in two] == pytest.approx(
            [h["train_loss"] for h in one], rel=1e-4
        )
        norms = [[h["gradient_norm"] for h in history(folder / out)] for out in ("one", "two")]
        assert norms[1][:4] == pytest.approx(norms[0][:4], rel=1e-3)
        scores = [json.loads((folder / o / "evaluation/metrics.json").read_text()) for o in
                  ("one", "two")]  # fmt: skip
        assert scores[1]["test"]["pcc_median"] == pytest.approx(
            scores[0]["test"]["pcc_median"], abs=1e-3
        )
        assert scores[1]["test"]["n_rows"] == 40 and scores[1]["n_cells"] == 70

    def test_vit_tiny_from_the_module(self, folder: Path) -> None:
        """`python -m ml.training CONFIG` with an encoder of the product, and readers ahead."""
        build_corpus(
            folder / "few", read_sources(write_study(folder / "u", "u", 2, 12), "Xenium")[:1],
            Said(), settings=CorpusSettings("jpeg"),
        )  # fmt: skip
        config = write_config(
            folder / "tiny.toml", out="tiny", model={"encoder": "vit_tiny"},
            data={"corpus": "few", "workers": 2},
            training={"epochs": 1, "batch": 12}, optimisation={"log_every": 1},
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "ml.training", str(config)], cwd=ROOT, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        printed = json.loads(done.stdout.strip().splitlines()[-1])
        assert Path(printed["model"]) == folder / "tiny/model" and printed["n_cells"] == 12
        assert checkpoint.load(folder / "tiny/model").config.encoder == "vit_tiny"

    def test_another_config_does_not_overwrite_a_run(self, whole: Path, folder: Path) -> None:
        config = write_config(folder / "other.toml", out="whole", **split(learning_rate=0.1))
        before = (whole / "run.json").read_bytes()
        with pytest.raises(InputError, match="differs in training") as caught:
            train_file(config)
        assert caught.value.code == "train.other_run"
        assert (whole / "run.json").read_bytes() == before


class TestBadInput:
    """What is wrong is named; nothing is trained on it."""

    def refused(self, folder: Path, **tables: dict[str, object]) -> InputError:
        config = write_config(folder / "bad.toml", out="bad", **tables)
        with pytest.raises(InputError) as caught:
            train_file(config)
        assert not (folder / "bad/model").exists()
        shutil.rmtree(folder / "bad", ignore_errors=True)
        return caught.value

    @pytest.fixture
    def copy(self, folder: Path, tmp_path: Path) -> Path:
        shutil.copytree(folder / "corpus", tmp_path / "corpus")
        return tmp_path

    def test_means_fitted_to_held_out_patients(self, folder: Path) -> None:
        error = self.refused(folder, data={"test": ["s/P0", "t/P0"]})
        assert error.code == "split.vocabulary_leak" and "--fit-on-patients" in error.remedy

    def test_a_corpus_without_crops(self, folder: Path, tmp_path: Path) -> None:
        sources = read_sources(folder / "s", "Xenium")
        build_corpus(tmp_path / "corpus", sources, Said(), settings=CorpusSettings("none"))
        assert self.refused(tmp_path).code == "corpus.no_crops"

    def test_an_encoder_that_only_has_maps(self, folder: Path) -> None:
        error = self.refused(folder, model={"encoder": "efficientnet_lite0"})
        assert error.code == "train.encoder" and "vit_tiny" in error.remedy

    def test_weights_for_an_encoder_that_has_none(self, folder: Path) -> None:
        error = self.refused(folder, model={"weights": "file.bin"})
        assert error.code == "train.encoder_weights"

    @pytest.mark.parametrize("suffix", ["safetensors", "crops"])
    def test_a_corrupt_shard_is_named(self, copy: Path, suffix: str) -> None:
        path = sorted(copy.glob(f"corpus/??/*S0-000.{suffix}"))[0]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        error = self.refused(copy, training={"epochs": 1, "batch": 16})
        assert error.code == "corpus.damaged_shard"
        assert path.stem in error.where and "past corpus build" in error.remedy

    def test_a_vocabulary_that_is_not_the_corpus(self, copy: Path) -> None:
        path = copy / "corpus/vocabulary/genes.csv"
        path.write_text(path.read_text().replace("G003", "G999"))
        error = self.refused(copy)
        assert error.code == "corpus.vocabulary_damaged"

    @pytest.mark.parametrize("change", ["missing", "extra", "shape"])
    def test_a_checkpoint_with_other_keys(self, whole: Path, tmp_path: Path, change: str) -> None:
        shutil.copytree(whole / "model", tmp_path / "model")
        path = tmp_path / "model/model.safetensors"
        tensors = load_file(path)
        name = "members.0.expression_head.programmes.weight"
        if change == "missing":
            del tensors[name]
        elif change == "extra":
            tensors["members.0.expression_head.more"] = torch.zeros(2)
        else:
            tensors[name] = tensors[name][:, :3].contiguous()
        save_file(tensors, path)
        with pytest.raises(InputError, match="do not fit") as caught:
            checkpoint.load(tmp_path / "model")
        assert caught.value.code == "model.weights"
        wanted = {"missing": name, "extra": "more", "shape": name}[change]
        assert wanted in caught.value.what
