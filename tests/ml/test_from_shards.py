"""Training on a corpus of shards: its start, its order, its scores, and that it can be resumed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.errors import InputError
from ml.evaluation.metrics import within_groups
from ml.evaluation.retrieval import CANDIDATES
from ml.io.celltable import CellTable
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
from tests.ml.training.corpora import GENES, Said, expression, two_panels, write_study
from tests.ml.training.tiny import NAME, SMALL, write_config

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
EVERY_STEP = {"log_every": 1, "checkpoint_minutes": 0.0, "clip": 5.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_panels(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def corpus(folder: Path) -> Corpus:
    return Corpus(folder / "corpus")


def job(corpus: Corpus, parts: Parts, **changes: object) -> ShardTraining:
    usual = ShardTraining(corpus, parts, NAME, replace(Architecture(), **SMALL), Settings(batch=7))
    return replace(usual, **changes)


ALL = Parts((0, 1, 2, 3), (), (), "held-out patients")


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
