"""How fast a training corpus is read, how much disk a cell takes, and how much memory a reader."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.bench.registry import Row, benchmark

# As in 5,508 real Xenium breast cells: of a panel of 280 genes a cell expresses 55 on average.
GENES, EXPRESSED = 280, 55
SECONDS = 10.0


@benchmark("loader_rate")
def loader_rate(folder: Path) -> Iterator[Row]:
    """Cells with 8 neighbours per second, read by one worker process; bytes per cell on the disk.

    524,288 cells; the batches arrive as tensors in this process, and this process waits for them.
    """
    from ml.training.shards.reader import Corpus
    from tests.ml.training.corpora import write_large

    corpus = Corpus(write_large(folder / "corpus", 8, genes=GENES, expressed=EXPRESSED))
    yield Row("loader_rate", _rate(corpus, workers=1, crops=False), "items/s")
    yield Row("loader_rate_by_length", _rate(corpus, 1, False, by_length=True), "items/s")
    size = sum(shard.files[".safetensors"][1] for shard in corpus.manifest.shards)
    yield Row("corpus_bytes_per_cell", size / len(corpus), "bytes")


@benchmark("loader_crop_rate")
def loader_crop_rate(folder: Path) -> Iterator[Row]:
    """Cells with both crops (JPEG), tokens and 8 neighbours per second, two workers.

    6,000 cells, eight times over, on a slide whose texture makes the JPEGs as large as those of
    tissue (25 KB for both).
    """
    from ml.io.slides import write_pyramid
    from ml.training.shards.reader import Corpus
    from tests.ml.training.corpora import built, repeat, write_study

    study = write_study(folder / "study", slides=1, cells=6000, mpp=0.25, genes=_names())
    image = study / "slides/S0.tif"
    image.unlink()
    write_pyramid(_texture(700, 900), image, mpp=0.25, mpp_source="a ruler")
    began = time.perf_counter()
    place = built(folder / "corpus", study, crops="jpeg")
    yield Row("corpus_build_rate", 6000 / (time.perf_counter() - began), "cells/s")
    corpus = Corpus(repeat(place, 8))
    yield Row("loader_crop_rate", _rate(corpus, workers=2, crops=True), "items/s")
    size = sum(shard.files[".crops"][1] for shard in corpus.manifest.shards)
    yield Row("corpus_crop_bytes_per_cell", size / len(corpus), "bytes")


@benchmark("loader_memory")
def loader_memory(folder: Path) -> Iterator[Row]:
    """Peak memory of a process that loads 300,000 cells, from 10 thousand and 10 million.

    Mapped pages count. The 10 million are 153 shards of 65,536 cells, all hard links to one.
    """
    from tests.ml.training.corpora import write_large

    peaks = {}
    for name, shards, cells in (("10k", 1, 10_000), ("10m", 153, 65_536)):
        corpus = write_large(folder / name, shards, cells, genes=GENES, expressed=EXPRESSED)
        out = subprocess.run(
            [sys.executable, "-m", "tests.bench.corpus", str(corpus)],
            capture_output=True,
            check=True,
        )
        peaks[name] = json.loads(out.stdout)
    small, large = peaks["10k"], peaks["10m"]
    yield Row("loader_memory_10k", small, "MiB")
    yield Row("loader_memory_10m", large, "MiB", baseline=small, ratio=large / small)


def _rate(corpus, workers: int, crops: bool, by_length: bool = False) -> float:  # type: ignore[no-untyped-def]
    """Items per second after the first batches, over some seconds and epochs."""
    from ml.training.shards.loader import CorpusLoader, LoaderConfig
    from ml.training.shards.order import Plan

    plan = Plan(batch=256, by_length=by_length)
    loader = CorpusLoader(corpus, LoaderConfig(plan, crops=crops, workers=workers))
    items, began = 0, 0.0
    while True:
        for number, batch in enumerate(loader):
            if number == 4 and not began:
                began = time.perf_counter()
            elif began:
                items += len(batch)
                if time.perf_counter() - began > SECONDS:
                    return items / (time.perf_counter() - began)


def _names() -> list[str]:
    return [f"G{i:03d}" for i in range(GENES)]


def _texture(height: int, width: int) -> np.ndarray:
    """Noise at several scales in the colours of H&E."""
    from skimage.filters import gaussian

    rng = np.random.default_rng(0)
    planes = [gaussian(rng.standard_normal((height, width)), s) * s for s in (1, 3, 8)]
    ink = np.clip(0.5 + 0.4 * sum(planes), 0, 1)[:, :, None]
    return (255 * np.exp(-ink * [0.6, 1.2, 0.5])).astype(np.uint8)


def _peak(corpus: Path, cells: int = 300_000) -> float:
    """Peak memory of this process in MiB after it has loaded so many cells."""
    from ml.training.shards.loader import CorpusLoader, LoaderConfig
    from ml.training.shards.order import Plan
    from ml.training.shards.reader import Corpus
    from tests.ml.training.corpora import peak_memory

    loader = CorpusLoader(Corpus(corpus), LoaderConfig(Plan(batch=256)))
    seen = 0
    while seen < cells:
        for batch in loader:
            seen += len(batch)
            if seen >= cells:
                break
    return peak_memory()


if __name__ == "__main__":
    print(_peak(Path(sys.argv[1])))
