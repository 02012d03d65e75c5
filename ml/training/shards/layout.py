"""What a corpus is on disk.

::

    corpus.json                  the manifest: settings, slides, shards, sha256 of every file
    vocabulary/                  genes and their non-zero means in each technology, one for the
                                 whole corpus (`ml.tokens.files`)
    ab/ab12…-S1-000.safetensors  a shard: cells of one slide, ordered along a space-filling curve
    ab/ab12…-S1-000.crops        their crops, context then cell, row after row (where there are any)

Arrays of a shard of n cells, followed where noted by h rows of its *halo*: cells of the same slide
that are neighbours of its own but belong to another shard. So every shard stands alone.

=================== ============ ================================================================
``starts``          n+h+1 uint32 where each row's tokens start
``ids``             uint16/32    token ids of all genes a row expresses, by rank (ragged)
``counts``          uint8/16/32  raw counts of these genes, in the same order
``xy_um``           n+h, 2 f32   position on the slide in µm
``row``             n+h uint32   row of the cell table
``neighbours``      n, 8 int32   nearest rows of this shard within the radius; −1: no more
``distances``       n, 8 float32 how far they are, in µm
``crop_starts``     2n+1 uint64  where each crop starts in the crop file (JPEG only)
``crop_crc``        n uint32     CRC-32 of both crops of a row
=================== ============ ================================================================

Patient, slide, site, technology and the panel of genes that were measured are the same for all
cells of a shard: the manifest has them, and numbers them in order of appearance, which appending
does not change.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.errors import InputError

FORMAT, SCHEMA = "past-corpus", 2
MANIFEST, VOCABULARY = "corpus.json", "vocabulary"
CROP_KINDS = ("none", "jpeg", "uint8")
CONTEXT_PIXELS, CELL_PIXELS = 224, 112
CROP_BYTES = 3 * (CONTEXT_PIXELS**2 + CELL_PIXELS**2)
_DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64,
           "I32": np.int32, "F32": np.float32}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What all shards of a corpus have in common.

    Attributes:
        crops: ``none``, ``jpeg`` or ``uint8``.
        jpeg_quality: of the crops, with chroma at half resolution as in the slides themselves.
        neighbours, radius_um: as many nearest cells within that radius.
        shard_cells: at most so many cells in a shard.
    """

    crops: str = "jpeg"
    jpeg_quality: int = 90
    neighbours: int = 8
    radius_um: float = 112.0
    shard_cells: int = 65_536


@dataclass(frozen=True)
class ShardRecord:
    """One shard in the manifest. `files` maps suffix to (sha256, bytes)."""

    name: str
    slide: int
    rows: int
    halo: int
    tokens: int
    files: dict[str, tuple[str, int]]

    def path(self, suffix: str) -> str:
        """Where the file lies in the corpus."""
        return f"{self.name[:2]}/{self.name}{suffix}"


@dataclass(frozen=True)
class SlideRecord:
    """One slide in the manifest.

    Attributes:
        rows, left_out: rows of its table, and how many of them have no token.
        genes_left_out: genes of the table that the vocabulary does not have.
        panel: number of the panel of its genes (`Manifest.panels`).
        sides_um: sides of the context and the cell crop.
        identity: sha256 of everything its shards were made from.
    """

    study: str
    slide: str
    patient: str
    site: str
    technology: str
    row_kind: str
    mpp: float
    rows: int
    left_out: int
    genes_left_out: int
    panel: int
    sides_um: tuple[float, float]
    table_sha256: str
    slide_sha256: str
    identity: str


@dataclass
class Manifest:
    """All that a reader must know before it opens a shard.

    `vocabulary_from` is the vocabulary's provenance: where its means were fitted to tables,
    ``tables`` lists them with their sha256, and with patient and slide where they are known.
    `panels` are different sets of measured genes, as runs of positions in the vocabulary: from,
    to, from, to …, each end excluded. `alike` are pairs of slides whose pictures resemble each
    other, by number, with their similarity (see `ml.evaluation.look_alikes`), and `compared` the
    slides that were compared with all others: those with crops, and enough tissue on them.
    """

    settings: Settings
    vocabulary_sha256: str
    vocabulary_from: dict[str, Any] = field(default_factory=dict)
    panels: list[list[int]] = field(default_factory=list)
    slides: list[SlideRecord] = field(default_factory=list)
    shards: list[ShardRecord] = field(default_factory=list)
    alike: list[tuple[int, int, float]] = field(default_factory=list)
    compared: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Cells of the corpus."""
        return sum(shard.rows for shard in self.shards)

    def ids(self) -> dict[str, list[str]]:
        """Names behind the ids of a batch: patients, sites (``study/name``) and technologies."""
        return {
            "patient": _unique(f"{s.study}/{s.patient}" for s in self.slides),
            "site": _unique(f"{s.study}/{s.site}" for s in self.slides),
            "technology": _unique(s.technology for s in self.slides),
        }

    def panel_number(self, positions: NDArray[np.int64]) -> int:
        """Number of the panel of these genes, given in order; a new panel is added."""
        edges = np.flatnonzero(np.diff(positions) != 1)
        first = positions[np.append(0, edges + 1)]
        last = positions[np.append(edges, len(positions) - 1)]
        runs = np.stack([first, last + 1], axis=1).ravel().tolist()
        if runs not in self.panels:
            self.panels.append(runs)
        return self.panels.index(runs)

    def measured(self, genes: int) -> NDArray[np.bool_]:
        """Which genes of the vocabulary each slide's panel has: (slides, genes)."""
        panels = np.zeros((len(self.panels), genes), bool)
        for number, runs in enumerate(self.panels):
            for first, stop in zip(runs[::2], runs[1::2], strict=True):
                panels[number, first:stop] = True
        found: NDArray[np.bool_] = panels[[slide.panel for slide in self.slides]]
        return found

    def as_json(self) -> str:
        head = {"format": FORMAT, "schema": SCHEMA, "rows": self.rows}
        return json.dumps({**head, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """The inverse of `as_json`.

        Raises:
            InputError: ``corpus.unreadable`` or ``corpus.schema``.
        """
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(data["format"])
            if data["schema"] != SCHEMA:
                raise InputError(
                    "corpus.schema",
                    where,
                    f"The corpus has format {data['schema']}; this version reads {SCHEMA}.",
                    "Build it again with this version: past corpus build.",
                )
            slides = [
                SlideRecord(**{**s, "sides_um": tuple(s["sides_um"])}) for s in data["slides"]
            ]
            return cls(
                Settings(**data["settings"]),
                data["vocabulary_sha256"],
                data["vocabulary_from"],
                data["panels"],
                slides,
                [shard_record(shard) for shard in data["shards"]],
                [(first, second, value) for first, second, value in data.get("alike", [])],
                list(data.get("compared", [])),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise not_a_corpus(where) from error


def shard_record(data: dict[str, Any]) -> ShardRecord:
    """The record that `asdict` and JSON made a dict of."""
    files = {suffix: (str(sha), int(size)) for suffix, (sha, size) in data["files"].items()}
    return ShardRecord(**{**data, "files": files})


def not_a_corpus(where: str) -> InputError:
    return InputError(
        "corpus.unreadable",
        where,
        f"It holds no {MANIFEST} that can be read.",
        "Name the folder that `past corpus build` wrote.",
    )


def damaged(where: str, shard: str, what: str) -> InputError:
    """The error for a shard that is not what the manifest says."""
    return InputError(
        "corpus.damaged_shard",
        f"{where}, shard {shard}",
        what,
        "Delete the files of this shard and run `past corpus build` again with the same studies: "
        "it writes what is missing. A copy from elsewhere: delete it from the cache.",
    )


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A place to write to; the file appears at `path`, on the disk, when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def mapped_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], mmap.mmap]:
    """The arrays of a safetensors file, memory-mapped read-only, and the map they lie in.

    The library's own reader copies what it returns; this one leaves everything on the disk.

    Raises:
        ValueError: the file is not a safetensors file, or is truncated.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    size = int.from_bytes(mapped[:8], "little")
    header: dict[str, Any] = json.loads(mapped[8 : 8 + size])
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop = entry["data_offsets"]
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        flat = np.frombuffer(mapped, dtype, (stop - start) // dtype.itemsize, 8 + size + start)
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, mapped


def _unique(names: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(names))
