"""Opens a corpus, in a folder or behind any fsspec URL, and gathers cells from its shards."""

from __future__ import annotations

import hashlib
import mmap
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.errors import InputError
from ml.io.store import DEFAULT_CACHE_BYTES, ObjectStore, content_hash
from ml.report import Report
from ml.tokens.files import GENES, HEAD, VocabularyFile
from ml.training.shards.build import read_vocabulary
from ml.training.shards.crops import CropFile
from ml.training.shards.layout import (
    MANIFEST,
    VOCABULARY,
    Manifest,
    ShardRecord,
    damaged,
    mapped_tensors,
    not_a_corpus,
    written_whole,
)

Rows = NDArray[np.int64]
_OPEN_AT_MOST = 64


class Shard:
    """Arrays of one shard (see `layout`), memory-mapped."""

    def __init__(self, record: ShardRecord, cells: Path, crops: Path | None) -> None:
        self.record = record
        self.arrays, self._map = mapped_tensors(cells)
        self.starts, self.ids, self.counts = (
            self.arrays[name] for name in ("starts", "ids", "counts")
        )
        self.crops = None if crops is None else CropFile(crops, self.arrays)

    def __len__(self) -> int:
        return self.record.rows

    def lengths(self, rows: Rows) -> NDArray[np.int64]:
        """Tokens that some rows have; a row of −1 has none."""
        starts = self.starts[rows].astype(np.int64)
        lengths = self.starts[rows + 1].astype(np.int64) - starts
        return np.where(rows < 0, 0, lengths)

    def places(self, rows: Rows, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in ``ids`` and ``counts`` the first `lengths` tokens of some rows lie, flat."""
        ends = np.cumsum(lengths)
        first = np.repeat(self.starts[rows].astype(np.int64) - (ends - lengths), lengths)
        return first + np.arange(len(first))

    def release(self) -> None:
        """Gives mapped pages back; what is read again comes from the system's page cache."""
        self._map.madvise(mmap.MADV_DONTNEED)


class Corpus:
    """A corpus that `past corpus build` wrote.

    Args:
        place: its folder, or an fsspec URL (``s3://…``) with a protocol.
        cache: folder for local copies; needed with a URL.
        cache_bytes: its size limit, which files in use may exceed.

    Files are checked against the manifest's sha256 when they are fetched, and a shard's arrays when
    this process first opens it; crops carry a checksum each that every read checks.
    `verify` reads everything at once.

    Raises:
        InputError: ``corpus.unreadable`` or ``corpus.schema``.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        cache: Path | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.place = str(place)
        self._folder: Path | None = None
        self._store: ObjectStore | None = None
        text = self.place.removeprefix("file://")
        if "://" in text:
            if cache is None:
                raise ValueError("a remote corpus needs a cache folder")
            own = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
            self._store = ObjectStore(text, cache=own, cache_bytes=cache_bytes)
            self._folder = own
            _fetch_heads(text, own)
        else:
            self._folder = Path(text).absolute()
        try:
            head = (self._folder / MANIFEST).read_text(encoding="utf-8")
        except OSError as error:
            raise not_a_corpus(self.place) from error
        self.manifest = Manifest.from_json(head, self.place)
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._verified: set[int] = set()

    def __len__(self) -> int:
        return self.manifest.rows

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps stay with the process that opened them.
        return {**self.__dict__, "_open": OrderedDict()}

    @cached_property
    def vocabulary(self) -> VocabularyFile:
        """The vocabulary of all shards, or InputError ``corpus.vocabulary_damaged``."""
        assert self._folder is not None
        return read_vocabulary(self._folder / VOCABULARY, self.manifest)

    def shard(self, index: int) -> Shard:
        """A shard by its number; the 64 used last stay open.

        Raises:
            InputError: ``corpus.damaged_shard``, naming the shard.
        """
        if index not in self._open:
            self._open[index] = self._opened(index)
            while len(self._open) > _OPEN_AT_MOST:
                self._open.popitem(last=False)
        self._open.move_to_end(index)
        return self._open[index]

    def verify(self, report: Report) -> None:
        """Reads all files and compares their sha256 with the manifest's.

        Raises:
            InputError: ``corpus.damaged_shard`` for the first that differs.
        """
        report.stage("Verifying")
        for number, record in enumerate(self.manifest.shards):
            for suffix in record.files:
                self._check(record, suffix, self._path(record, suffix))
            report.progress((number + 1) / len(self.manifest.shards))

    def damaged(self, index: int, what: str) -> InputError:
        """The error for a shard that turned out not to be what it should."""
        return self._damaged(self.manifest.shards[index], what)

    def _opened(self, index: int) -> Shard:
        record = self.manifest.shards[index]
        paths = {suffix: self._path(record, suffix) for suffix in record.files}
        if index not in self._verified:
            self._check(record, ".safetensors", paths[".safetensors"])
            self._verified.add(index)
        return Shard(record, paths[".safetensors"], paths.get(".crops"))

    def _path(self, record: ShardRecord, suffix: str) -> Path:
        """A local file of a shard, of the size it should have."""
        uri = record.path(suffix)
        sha256, size = record.files[suffix]
        try:
            if self._store is not None:
                path = self._store.local(uri, sha256)
            else:
                assert self._folder is not None
                path = self._folder / uri
            found = path.stat().st_size
        except (OSError, InputError) as error:
            raise self._damaged(record, f"{uri} is missing or cannot be fetched whole.") from error
        if found != size:
            raise self._damaged(record, f"{uri} has {found} bytes, not {size}.")
        return path

    def _check(self, record: ShardRecord, suffix: str, path: Path) -> None:
        if content_hash(path)[0] != record.files[suffix][0]:
            raise self._damaged(record, f"{record.path(suffix)} is not what was written (sha256).")

    def _damaged(self, record: ShardRecord, what: str) -> InputError:
        slide = self.manifest.slides[record.slide]
        return damaged(
            self.place, f"{record.name} (slide {slide.slide} of study {slide.study})", what
        )


def _fetch_heads(url: str, folder: Path) -> None:
    """Copies manifest and vocabulary, which may have grown since they were copied last."""
    import fsspec

    files, prefix = fsspec.core.url_to_fs(url)
    for name in (f"{VOCABULARY}/{GENES}", f"{VOCABULARY}/{HEAD}", MANIFEST):
        try:
            content = files.cat_file(f"{prefix.rstrip('/')}/{name}")
        except (OSError, KeyError) as error:
            raise not_a_corpus(url) from error
        with written_whole(folder / name) as part:
            part.write_bytes(content)
