"""Small converted studies to build corpora from, and corpora of any size that cost no disk."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy import ndimage, sparse

from ml.io.celltable import write_cell_table
from ml.io.slides import write_pyramid
from ml.io.store import content_hash
from ml.report import ConsoleReport
from ml.tokens.files import VocabularyFile
from ml.training.shards.build import build_corpus
from ml.training.shards.cut import SlideCells, shard_arrays
from ml.training.shards.layout import (
    MANIFEST,
    VOCABULARY,
    Manifest,
    Settings,
    ShardRecord,
    SlideRecord,
)
from ml.training.shards.reader import Corpus
from ml.training.shards.sources import read_sources

GENES = [f"G{i:03d}" for i in range(40)]
WIDTH, HEIGHT = 900, 700


class Said(ConsoleReport):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def picture(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Smooth colour, different at every place and for every seed; JPEG hardly changes it."""
    rng = np.random.default_rng([9, seed])
    fields = [ndimage.gaussian_filter(rng.normal(size=(height, width)), 12) for _ in range(3)]
    return np.stack([(128 + 90 * np.tanh(30 * f)).astype(np.uint8) for f in fields], axis=2)


def write_study(
    folder: Path,
    slug: str = "s",
    slides: int = 2,
    cells: int = 150,
    *,
    mpp: float = 0.5,
    genes: list[str] = GENES,
    seed: int = 0,
    silent: int = 0,
) -> Path:
    """A study as `past convert` leaves it; the first `silent` cells of each slide have no count.

    Slide i belongs to patient i of site A or B. Two cells lie on the middle of corner pixels.
    """
    (folder / "slides").mkdir(parents=True)
    (folder / "cells").mkdir()
    listing = {"study": {"slug": slug}, "patients": [], "slides": []}
    for number in range(slides):
        rng = np.random.default_rng([seed, number])
        code, patient = f"S{number}", f"P{number}"
        write_pyramid(picture(number), folder / f"slides/{code}.tif", mpp=mpp, mpp_source="a ruler")
        counts = rng.poisson(0.6, (cells, len(genes)))
        counts[:, 0] += 1
        counts[:silent] = 0
        xy = rng.uniform(0, [WIDTH, HEIGHT], (cells, 2)).astype(np.float32)
        corners = np.array([[0.5, 0.5], [WIDTH - 0.5, HEIGHT - 0.5]])
        xy[silent : silent + 2] = corners[: cells - silent]
        info = write_cell_table(
            folder / f"cells/{code}.zarr",
            counts=sparse.csr_matrix(counts),
            symbols=genes,
            gene_ids=[""] * len(genes),
            xy=xy,
            obs_names=[f"c{i}" for i in range(cells)],
            row_kind="cell",
            spot_diameter_um=None,
            source="measured",
        )
        listing["patients"].append({"code": patient, "site": "AB"[number % 2], "clinical": {}})
        listing["slides"].append(
            {
                "code": code, "patient": patient, "file": f"slides/{code}.tif",
                "info": {"mpp": mpp},
                "cells": {"path": f"cells/{code}.zarr", "n_genes": info.n_genes},
            }
        )  # fmt: skip
    (folder / "result.json").write_text(json.dumps(listing))
    return folder


def built(out: Path, *studies: Path, **settings: object) -> Path:
    """A corpus of these studies, without crops unless `settings` say otherwise."""
    sources = [source for study in studies for source in read_sources(study, "Xenium")]
    chosen = replace(Settings(crops="none"), **settings)
    build_corpus(out, sources, Said(), settings=chosen)
    return out


def files_of(corpus: Path) -> dict[str, str]:
    """sha256 of every file that is not a lock."""
    return {
        path.relative_to(corpus).as_posix(): content_hash(path)[0]
        for path in corpus.rglob("*")
        if path.is_file() and path.name != ".build.lock"
    }


def peak_memory() -> float:
    """Peak memory of this process in MiB, mapped pages included.

    Not `ru_maxrss`, which a process inherits from the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def repeat(corpus: Path, times: int) -> Path:
    """Makes each shard of a corpus `times` shards of the same slide, all hard links to one."""
    manifest = Manifest.from_json((corpus / MANIFEST).read_text(), str(corpus))
    for shard in list(manifest.shards):
        for number in range(1, times):
            copy = replace(shard, name=f"{shard.name}-{number}")
            for suffix in shard.files:
                os.link(corpus / shard.path(suffix), corpus / copy.path(suffix))
            manifest.shards.append(copy)
    (corpus / MANIFEST).write_text(manifest.as_json())
    return corpus


def write_large(
    out: Path, shards: int, cells: int = 65_536, *, genes: int = 313, expressed: int = 90
) -> Path:
    """A corpus of ``shards × cells`` cells that takes the disk space of one shard.

    The one shard is as full as a real one (random genes and counts, lengths from a gamma
    distribution around `expressed`, eight neighbours near on the curve); the others are hard links
    to it, which a reader opens, hashes and maps like files of their own.
    """
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma(4, expressed / 4, cells), 8, genes).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    near = np.arange(cells)[:, None] + rng.integers(-300, 300, (cells, 8))
    names = tuple(f"G{i}" for i in range(genes))
    vocabulary = VocabularyFile(("",) * genes, names, {"Xenium": np.ones(genes)})
    whole = SlideCells(
        row=np.arange(cells, dtype=np.uint32),
        xy_px=np.zeros((cells, 2), np.float32),
        xy_um=rng.uniform(0, 8000, (cells, 2)).astype(np.float32),
        starts=starts,
        ids=rng.integers(30, 30 + genes, starts[-1]),
        counts=rng.integers(1, 300, starts[-1]).astype(np.uint32),
        neighbours=np.clip(near, 0, cells - 1).astype(np.int32),
        distances=rng.uniform(4, 60, (cells, 8)).astype(np.float32),
        panel=np.arange(genes),
        left_out=0,
        genes_left_out=0,
    )
    manifest = Manifest(Settings(crops="none"), vocabulary.sha256, panels=[[0, genes]])
    out.mkdir(parents=True)
    vocabulary.save(out / VOCABULARY)
    first = out / "one.safetensors"
    save_file(shard_arrays(whole, 0, cells, vocabulary.technology("Xenium")), first)
    written = content_hash(first)
    for number in range(shards):
        record = ShardRecord(
            f"{number:02x}-{number:05d}", number, cells, 0, int(starts[-1]),
            {".safetensors": written},
        )  # fmt: skip
        path = out / record.path(".safetensors")
        path.parent.mkdir(exist_ok=True)
        os.link(first, path)
        manifest.shards.append(record)
        manifest.slides.append(
            SlideRecord(
                "large", f"S{number}", f"P{number // 2}", "A", "Xenium", "cell", 0.25, cells, 0, 0,
                0, (112.0, 28.0), "", "", str(number),
            )
        )  # fmt: skip
    first.unlink()
    (out / MANIFEST).write_text(manifest.as_json())
    return out


def two_panels(folder: Path) -> Path:
    """A corpus of three patients with one panel and one with another; means of P0 and P3 alone."""
    first = read_sources(write_study(folder / "s", slides=3, cells=40), "Xenium")
    # The first genes are not measured, and one is that no other slide has.
    other = write_study(folder / "t", "t", 1, 30, genes=GENES[6:], seed=4)
    sources = [*first, *read_sources(other, "Xenium")]
    build_corpus(
        folder / "corpus", sources, Said(), fit_on=[sources[0], sources[3]],
        settings=Settings("jpeg", shard_cells=25),
    )  # fmt: skip
    return folder


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
