"""What the loader promises: every cell once, the same order whoever asks, little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.errors import InputError
from ml.io.celltable import CellTable
from ml.tokens.rank import rank_tokens
from ml.tokens.vocabulary import PAD
from ml.training.shards.gather import CorpusBatch
from ml.training.shards.loader import CorpusLoader, LoaderConfig
from ml.training.shards.order import Plan
from ml.training.shards.reader import Corpus
from tests.ml.training.corpora import GENES, built, write_large, write_study

PLAN = Plan(batch=16, seed=3, block=8, window=64, shards_together=3)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("converted") / "study", slides=3, silent=2)


@pytest.fixture(scope="module")
def corpus(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(built(tmp_path_factory.mktemp("corpora") / "corpus", study, shard_cells=40))


def loaded(corpus: Corpus, plan: Plan = PLAN, **how: object) -> list[CorpusBatch]:
    return list(CorpusLoader(corpus, LoaderConfig(plan, **how)))


def cells(batches: list[CorpusBatch]) -> list[tuple[int, int]]:
    return [
        (int(slide), int(row))
        for batch in batches
        for slide, row in zip(batch.slide, batch.row, strict=True)
    ]


def same(a: list[CorpusBatch], b: list[CorpusBatch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(value, vars(y)[name])
        for x, y in zip(a, b, strict=True)
        for name, value in vars(x).items()
        if value is not None
    )


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (3, 0), (2, 2)])
def test_every_cell_once_an_epoch(
    corpus: Corpus, ranks: int, workers: int, by_length: bool
) -> None:
    plan = replace(PLAN, ranks=ranks, by_length=by_length)
    shares = [loaded(corpus, plan, rank=rank, workers=workers) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    seen = Counter(cell for share in shares for cell in cells(share))
    assert set(seen.values()) == {1}
    assert set(seen) == {(slide, row) for slide in range(3) for row in range(2, 150)}
    assert all(1 <= len(batch) <= 16 for share in shares for batch in share)


@pytest.mark.parametrize("count", range(1, 12))
def test_no_rank_is_left_without_a_cell(corpus: Corpus, count: int) -> None:
    """Whatever is left for the last step: 444 cells in batches of different sizes."""
    plan = replace(PLAN, batch=37 - count, ranks=4)
    shares = [loaded(corpus, plan, rank=rank) for rank in range(4)]
    assert len({len(share) for share in shares}) == 1
    assert min(len(batch) for share in shares for batch in share) >= 1
    assert sorted(cell for share in shares for cell in cells(share)) == sorted(
        cells(loaded(corpus))
    )


def test_the_order_depends_on_seed_and_epoch_only(corpus: Corpus) -> None:
    first = loaded(corpus)
    assert same(first, loaded(corpus, workers=2))
    loader = CorpusLoader(corpus, LoaderConfig(PLAN))
    epochs = [cells(list(loader)) for _ in range(2)]
    assert epochs[0] == cells(first) != epochs[1]
    assert cells(loaded(corpus, replace(PLAN, seed=4))) != epochs[0]


def test_batches_mix_slides_and_places(corpus: Corpus) -> None:
    batches = loaded(corpus, replace(PLAN, window=256, shards_together=12))
    assert all(len(batch.slide.unique()) == 3 for batch in batches if len(batch) == 16)
    order = [cell for cell in cells(batches) if cell[0] == 0]
    steps = np.abs(np.diff([row for _, row in order]))
    assert np.median(steps) > 20  # 33 of 150 if perfectly shuffled


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 3, 17, 28])
def test_an_interrupted_epoch_goes_on_where_it_was(corpus: Corpus, stop: int, workers: int) -> None:
    whole = CorpusLoader(corpus, LoaderConfig(PLAN))
    expected = [*whole, *whole]
    loader = CorpusLoader(corpus, LoaderConfig(PLAN))
    before = []
    if stop:
        for batch in loader:
            before.append(batch)
            if len(before) == stop:
                break
    state = json.loads(json.dumps(loader.state_dict()))
    other = CorpusLoader(corpus, LoaderConfig(PLAN, workers=workers))
    other.load_state_dict(state)
    assert same([*before, *other, *other], expected)


def test_a_position_of_another_order_is_refused(corpus: Corpus) -> None:
    state = CorpusLoader(corpus, LoaderConfig(PLAN)).state_dict()
    for plan, slides in ((replace(PLAN, batch=8), None), (PLAN, (0, 1))):
        with pytest.raises(InputError) as caught:
            CorpusLoader(corpus, LoaderConfig(plan, slides=slides)).load_state_dict(state)
        assert caught.value.code == "corpus.other_position"


def test_chosen_slides_only(corpus: Corpus) -> None:
    assert {slide for slide, _ in cells(loaded(corpus, slides=(0, 2)))} == {0, 2}
    with pytest.raises(InputError) as caught:
        CorpusLoader(corpus, LoaderConfig(PLAN, slides=()))
    assert caught.value.code == "corpus.too_small"


@pytest.mark.parametrize("context", [5, 297])
def test_a_batch_holds_tokens_counts_and_neighbours_of_its_cells(
    study: Path, corpus: Corpus, context: int
) -> None:
    tables = [CellTable.open(study / f"cells/S{i}.zarr") for i in range(3)]
    expected = [
        rank_tokens(t.counts(), corpus.vocabulary.technology("Xenium"), context) for t in tables
    ]
    totals = [table.totals() for table in tables]
    for batch in loaded(corpus, context=context):
        assert batch.tokens.shape[1] <= context
        for i in range(len(batch)):
            slide, row = int(batch.slide[i]), int(batch.row[i])
            wanted = expected[slide][row]
            assert batch.tokens[i].tolist() == padded(wanted, batch.tokens.shape[1])
            place = slice(int(batch.count_starts[i]), int(batch.count_starts[i + 1]))
            dense = np.zeros(len(GENES))
            dense[batch.count_genes[place]] = batch.count_values[place]
            assert (dense == tables[slide].counts()[row].toarray()[0]).all()
            assert dense.sum() == totals[slide][row]
            xy_um = tables[slide].xy().astype(float) * 0.5
            away = np.hypot(*(xy_um - xy_um[row]).T)
            for k in range(8):
                tokens = batch.neighbour_tokens[i, k]
                if batch.neighbour_absent[i, k]:
                    assert (tokens == PAD).all()
                    continue
                near = int(np.argmin(np.abs(away - float(batch.neighbour_distance[i, k]))))
                assert tokens.tolist() == padded(expected[slide][near], len(tokens))
            assert np.allclose(batch.xy_um[i], xy_um[row])


def padded(tokens: np.ndarray, length: int) -> list[int]:
    kept = tokens[tokens != PAD].tolist()
    return [*kept, *[PAD] * (length - len(kept))]


def test_batches_by_length_hold_less_padding(tmp_path: Path) -> None:
    corpus = Corpus(write_large(tmp_path / "c", 4, 2048))
    plan = Plan(batch=64, window=4096)

    def padding(plan: Plan) -> float:
        batches = loaded(corpus, plan)
        assert sum(len(batch) for batch in batches) == 4 * 2048
        return float(np.mean([(batch.tokens == PAD).float().mean() for batch in batches]))

    assert padding(replace(plan, by_length=True)) < 0.05 < 0.4 < padding(plan)


EPOCH = """
import json, sys
from pathlib import Path
from ml.training.shards.loader import CorpusLoader, LoaderConfig
from ml.training.shards.order import Plan
from ml.training.shards.reader import Corpus
from tests.ml.training.corpora import peak_memory

loader = CorpusLoader(Corpus(Path(sys.argv[1])), LoaderConfig(Plan(batch=256)))
seen = 0
while seen < int(sys.argv[2]):
    for batch in loader:
        seen += len(batch)
        if seen >= int(sys.argv[2]):
            break
print(json.dumps([len(loader.corpus), peak_memory()]))
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Peak memory of a process that loads the same number of cells, mapped pages included."""
    peaks = {}
    for shards in (3, 31):
        corpus = write_large(tmp_path / str(shards), shards)
        out = subprocess.run(
            [sys.executable, "-c", EPOCH, str(corpus), "100000"], capture_output=True, check=True
        )
        cells_, peak = json.loads(out.stdout)
        peaks[cells_] = peak
    small, large = (peaks[n] for n in sorted(peaks))
    assert sorted(peaks) == [196_608, 2_031_616]
    assert large < small + 25, peaks
