"""Layers: predicted expression in the row order of a cell table, gene by gene.

Values are uint8 with a scale and an offset per gene (value = offset + scale × uint8), so that one
gene of a million cells is one read of a megabyte and half a step of the scale is the largest error.
"""

from __future__ import annotations

import functools
import os
import shutil
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from ml.errors import InputError
from ml.io.celltable import panel_hash
from ml.io.journal import Journal

UNIT = "log1p(counts per 10,000)"
_BUFFER_BYTES = 32 * 2**20
# A chunk is a gene; of tables with few rows it is as many genes as make 64 KB.
_CHUNK_BYTES = 64 * 2**10
_SHARD_BYTES = 16 * 2**20


class LayerWriter:
    """Writes a layer from blocks of rows, in some 100 MB of memory whatever its size.

    Rows arrive row-major and are read gene-major, so blocks are turned and parked in a scratch
    file beside `out`, and quantised gene by gene in :meth:`close`. As a context manager it closes
    on success and leaves nothing behind on an error::

        with LayerWriter(out, symbols=symbols, n_rows=n, …) as layer:
            for block in blocks:  # (k, genes) float32
                layer.append(block)

    Given a `work` folder, blocks are parked there and stay there on an error, also on one that
    ends the process: the next writer of the same layer goes on with the row that `written` says.

    Attributes:
        block_rows: rows that are parked together; all blocks but the last have so many.
        written: rows that are parked.
        sums: (genes,) float64 sums of the values of the rows that are parked.
    """

    def __init__(
        self,
        out: Path,
        *,
        symbols: list[str],
        n_rows: int,
        table_sha256: str,
        model_sha256: str,
        unit: str = UNIT,
        work: Path | None = None,
    ) -> None:
        if not symbols or n_rows <= 0 or len(set(symbols)) != len(symbols):
            raise ValueError("a layer needs rows and unique genes")
        self.out = out
        self.symbols = symbols
        self.n_rows = n_rows
        self._about = {"unit": unit, "table_sha256": table_sha256, "model_sha256": model_sha256}
        genes = len(symbols)
        self.block_rows = max(1, min(n_rows, _BUFFER_BYTES // (4 * genes)))
        self._buffer = np.empty((self.block_rows, genes), np.float32)
        self._buffered = 0
        self.written = 0
        self.sums = np.zeros(genes)
        self._low = np.full(genes, np.inf, np.float32)
        self._high = np.full(genes, -np.inf, np.float32)
        self._kept = work is not None
        self._part = work or out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
        self._part.mkdir(parents=True, exist_ok=True)
        self._scratch_path = self._part / "scratch"
        self._journal = Journal(
            self._part / "journal", {**self._about, "symbols": symbols, "n_rows": n_rows}
        )
        self._take_over()
        self._scratch = self._scratch_path.open("ab")

    def append(self, rows: NDArray[np.float32]) -> None:
        """Takes the next (k, genes) values, in the table's row order.

        Raises:
            ValueError: wrong number of genes, more rows than the table has, or a value not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.symbols):
            raise ValueError(f"block of shape {rows.shape} for {len(self.symbols)} genes")
        if self.written + self._buffered + len(rows) > self.n_rows:
            raise ValueError(f"more than {self.n_rows} rows")
        if not np.isfinite(rows).all():
            raise ValueError("a predicted value is not finite")
        while len(rows):
            taken = min(len(rows), self.block_rows - self._buffered)
            self._buffer[self._buffered : self._buffered + taken] = rows[:taken]
            self._buffered += taken
            rows = rows[taken:]
            if self._buffered == self.block_rows:
                self._flush()

    def close(self) -> None:
        """Quantises and publishes the layer.

        Raises:
            ValueError: fewer rows were appended than the table has.
        """
        self._flush()
        self._scratch.close()
        if self.written != self.n_rows:
            self.discard()
            raise ValueError(f"{self.written} of {self.n_rows} rows were written")
        self._write()
        if self.out.exists():
            shutil.rmtree(self.out)
        (self._part / "layer").replace(self.out)
        self.discard()

    def discard(self) -> None:
        """Removes what is parked."""
        self._end()
        shutil.rmtree(self._part, ignore_errors=True)

    def _end(self) -> None:
        self._scratch.close()
        self._journal.close()

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif self._kept:
            self._end()
        else:
            self.discard()

    def _flush(self) -> None:
        if not self._buffered:
            return
        turned = np.ascontiguousarray(self._buffer[: self._buffered].T)
        self._scratch.write(turned.tobytes())
        self._scratch.flush()
        if self._kept:
            os.fdatasync(self._scratch.fileno())
        self._journal.add(self.written // self.block_rows)
        self._count(turned)
        self._buffered = 0

    def _count(self, turned: NDArray[np.float32]) -> None:
        """Takes note of a parked block (genes, rows)."""
        np.minimum(self._low, turned.min(axis=1), out=self._low)
        np.maximum(self._high, turned.max(axis=1), out=self._high)
        self.sums += turned.sum(axis=1, dtype=np.float64)
        self.written += turned.shape[1]

    def _take_over(self) -> None:
        """Counts the blocks that an earlier writer parked; what comes after them goes."""
        genes = len(self.symbols)
        whole = self._scratch_path.stat().st_size if self._scratch_path.exists() else 0
        with self._scratch_path.open("ab" if self._journal.resumed else "wb"):
            pass
        while self._journal.resumed and self.written // self.block_rows in self._journal.done:
            rows = min(self.block_rows, self.n_rows - self.written)
            start = 4 * genes * self.written
            if rows <= 0 or start + 4 * genes * rows > whole:
                break
            parked = np.fromfile(self._scratch_path, np.float32, genes * rows, offset=start)
            self._count(parked.reshape(genes, rows))
        os.truncate(self._scratch_path, 4 * genes * self.written)

    def _write(self) -> None:
        genes = len(self.symbols)
        chunk = min(genes, max(1, _CHUNK_BYTES // self.n_rows))
        step = chunk * max(1, _SHARD_BYTES // (chunk * self.n_rows))
        root = zarr.open_group(self._part / "layer", mode="w", zarr_format=3)
        root.attrs["past"] = {
            **self._about,
            "n_rows": self.n_rows,
            "symbols": self.symbols,
            "panel_hash": panel_hash(self.symbols),
        }
        values = root.create_array(
            "values",
            shape=(genes, self.n_rows),
            dtype="uint8",
            chunks=(chunk, self.n_rows),
            shards=(step, self.n_rows),
            compressors=BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle"),
        )
        scale = ((self._high.astype(np.float64) - self._low) / 255).astype(np.float32)
        for start in range(0, genes, step):
            stop = min(genes, start + step)
            values[start:stop] = self._quantised(start, stop, scale[start:stop])
        for name, numbers in (("scale", scale), ("offset", self._low)):
            root.create_array(name, shape=(genes,), dtype="float32")[:] = numbers

    def _quantised(self, start: int, stop: int, scale: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(genes start…stop, rows) uint8, gathered from the parked blocks."""
        out = np.empty((stop - start, self.n_rows), np.uint8)
        divisor = np.where(scale > 0, scale, 1)[:, None]
        low = self._low[start:stop, None]
        genes = len(self.symbols)
        for first in range(0, self.n_rows, self.block_rows):
            rows = min(self.block_rows, self.n_rows - first)
            parked = np.fromfile(
                self._scratch_path,
                np.float32,
                (stop - start) * rows,
                offset=4 * (first * genes + start * rows),
            )
            block = parked.reshape(-1, rows)
            steps = np.rint((block - low) / divisor)
            out[:, first : first + rows] = np.clip(steps, 0, 255)
        return out


class Layer:
    """An open layer. Safe to share between threads. Made by :meth:`open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            root = zarr.open_group(path, mode="r")
            about: dict[str, Any] = dict(root.attrs["past"])  # type: ignore[arg-type]
            self._values: Any = root["values"]
            self._scale: Any = root["scale"][:]  # type: ignore[index]
            self._offset: Any = root["offset"][:]  # type: ignore[index]
        except (OSError, KeyError, ValueError) as error:
            raise InputError(
                "layer.unreadable",
                path.name,
                "this folder is not a layer.",
                "Give a layer that `past predict` or a prediction job wrote.",
            ) from error
        self.symbols: list[str] = about["symbols"]
        self.n_rows = int(about["n_rows"])
        self.unit = str(about["unit"])
        self.table_sha256 = str(about["table_sha256"])
        self.model_sha256 = str(about["model_sha256"])
        self.panel_hash = str(about["panel_hash"])
        self._columns = {symbol: column for column, symbol in enumerate(self.symbols)}

    @classmethod
    def open(cls, path: Path) -> Layer:
        """Opens a layer; opening it again in this process costs nothing.

        Raises:
            InputError: ``layer.unreadable``.
        """
        try:
            changed = (path / "zarr.json").stat().st_mtime_ns
        except OSError:
            changed = 0
        return _opened(path, changed)

    def gene(self, symbol: str) -> NDArray[np.float32]:
        """(rows,) float32 values of one gene, in `unit`.

        Raises:
            InputError: ``gene.unknown``.
        """
        steps, scale, offset = self.gene_uint8(symbol)
        return np.float32(offset) + np.float32(scale) * steps

    def gene_uint8(self, symbol: str) -> tuple[NDArray[np.uint8], float, float]:
        """(rows,) uint8 with its scale and offset: value = offset + scale × uint8.

        Raises:
            InputError: ``gene.unknown``.
        """
        column = self._columns.get(symbol)
        if column is None:
            raise InputError(
                "gene.unknown",
                self.path.name,
                f"this layer has no gene {symbol!r}.",
                "Search the layer's genes; names are symbols such as ERBB2, in capitals.",
            )
        return (
            np.asarray(self._values[column], np.uint8),
            float(self._scale[column]),
            float(self._offset[column]),
        )


@functools.lru_cache(maxsize=64)
def _opened(path: Path, _changed: int) -> Layer:
    return Layer(path)
