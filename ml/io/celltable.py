"""Cell tables: the cells or spots of one slide with their raw counts, on disk as AnnData Zarr.

``anndata.read_zarr`` opens a table. The web does not go through AnnData: one gene of a table is
three slices of the CSC arrays, in chunks small enough for that to take milliseconds.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from scipy import sparse
from zarr.codecs import BloscCodec

from ml.errors import InputError

ROW_KINDS = ("cell", "spot")
CELL_TYPE = "cell_type"
# A gene of 500,000 cells has some 75,000 counts: two or three chunks to read. Shards keep the
# number of files small.
_CHUNK = 65_536
_CHUNKS_PER_SHARD = 64
_PANELS_REMEMBERED = 8


@dataclass(frozen=True)
class CellTableInfo:
    n_rows: int
    n_genes: int
    row_kind: str
    spot_diameter_um: float | None
    panel_hash: str
    source: str


def panel_hash(symbols: Iterable[str]) -> str:
    """sha256 of the ordered gene symbols; two tables with the same hash share their columns."""
    return hashlib.sha256("\n".join(symbols).encode()).hexdigest()


def write_cell_table(
    out: Path,
    *,
    counts: sparse.csr_matrix,
    symbols: list[str],
    gene_ids: list[str],
    xy: NDArray[np.float32],
    obs_names: list[str],
    row_kind: str,
    spot_diameter_um: float | None,
    source: str,
    cell_types: Sequence[str] | None = None,
) -> CellTableInfo:
    """Writes a cell table; the folder appears when it is complete.

    Args:
        counts: (rows, genes) raw counts, whole numbers; (rows, 0) for positions only.
        symbols, gene_ids: one per gene; a gene id is Ensembl's or empty. Symbols are unique.
        xy: (rows, 2) float32, level-0 pixels of the slide.
        obs_names: the source's own names of the rows.
        row_kind: "cell" or "spot"; a spot needs `spot_diameter_um`.
        source: "measured", "nuclei:classical", "grid", …
        cell_types: the label that somebody gave each row, "" where none was; None without labels.

    Raises:
        ValueError: the parts do not fit together.
    """
    counts = sparse.csr_matrix(counts)
    n_rows, n_genes = counts.shape
    _check_parts(
        counts, symbols, gene_ids, xy, obs_names, cell_types,
        row_kind=row_kind, diameter=spot_diameter_um,
    )  # fmt: skip
    counts = counts.astype(np.uint32)
    counts.sum_duplicates()
    info = CellTableInfo(
        n_rows, n_genes, row_kind, spot_diameter_um, panel_hash(symbols) if symbols else "", source
    )
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
    try:
        _write_anndata(part, counts, symbols, gene_ids, xy, obs_names, cell_types, info)
        if out.exists():
            shutil.rmtree(out)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return info


def _check_parts(
    counts: sparse.csr_matrix,
    symbols: list[str],
    gene_ids: list[str],
    xy: NDArray[np.float32],
    obs_names: list[str],
    cell_types: Sequence[str] | None,
    *,
    row_kind: str,
    diameter: float | None,
) -> None:
    n_rows, n_genes = counts.shape
    if (len(symbols), len(gene_ids)) != (n_genes, n_genes) or len(set(symbols)) != n_genes:
        raise ValueError("there must be one symbol and one gene id per gene, symbols unique")
    if xy.shape != (n_rows, 2) or len(obs_names) != n_rows or not np.isfinite(xy).all():
        raise ValueError("there must be one finite position and one name per row")
    if row_kind not in ROW_KINDS or (row_kind == "spot" and not (diameter and diameter > 0)):
        raise ValueError(f"row_kind is one of {ROW_KINDS}; spots need a diameter")
    if cell_types is not None and len(cell_types) != n_rows:
        raise ValueError("there must be one label per row, which may be empty")
    if not is_counts(counts.data):
        raise ValueError("counts must be whole numbers from 0")


def is_counts(values: NDArray[Any]) -> bool:
    """Whether all values are whole numbers from 0 to 2³²-1, whatever their dtype."""
    if values.size == 0 or values.dtype == bool:
        return True
    if values.min() < 0 or values.max() >= 2**32:
        return False
    return bool(values.dtype.kind in "ui" or np.equal(np.mod(values, 1), 0).all())


def _write_anndata(
    folder: Path,
    counts: sparse.csr_matrix,
    symbols: list[str],
    gene_ids: list[str],
    xy: NDArray[np.float32],
    obs_names: list[str],
    cell_types: Sequence[str] | None,
    info: CellTableInfo,
) -> None:
    import anndata
    import pandas as pd

    totals = np.asarray(counts.sum(axis=1, dtype=np.float64), np.float32).ravel()
    obs = pd.DataFrame({"total_counts": totals}, index=pd.Index(obs_names, dtype=str))
    if cell_types is not None and any(cell_types):
        names = sorted(set(cell_types) - {""})
        obs[CELL_TYPE] = pd.Categorical(list(cell_types), categories=names)
    table = anndata.AnnData(
        obs=obs,
        var=pd.DataFrame(
            {"symbol": symbols, "gene_id": gene_ids}, index=pd.Index(symbols, dtype=str), dtype=str
        ),
        obsm={"spatial": np.asarray(xy, np.float32)},
    )
    past: dict[str, Any] = {
        "row_kind": info.row_kind,
        "source": info.source,
        "panel_hash": info.panel_hash,
    }
    if info.spot_diameter_um is not None:
        past["spot_diameter_um"] = info.spot_diameter_um
    table.uns["past"] = past
    root = zarr.open_group(folder, mode="w", zarr_format=3)
    with anndata.settings.override(auto_shard_zarr_v3=False):
        anndata.io.write_elem(root, "/", table)
    if "X" in root:
        del root["X"]
    _write_sparse(root, "X", counts, "csr_matrix")
    _write_sparse(root.require_group("layers"), "by_gene", counts.tocsc(), "csc_matrix")
    root.attrs["past"] = {**past, "shape": list(counts.shape)}


def _write_sparse(parent: zarr.Group, name: str, matrix: Any, encoding: str) -> None:
    group = parent.create_group(name)
    group.attrs.update(
        {"encoding-type": encoding, "encoding-version": "0.1.0", "shape": list(matrix.shape)}
    )
    for part, dtype in (("data", "uint32"), ("indices", "int32"), ("indptr", "int64")):
        values = getattr(matrix, part).astype(dtype)
        array = group.create_array(
            part,
            shape=values.shape,
            dtype=dtype,
            chunks=(_CHUNK,),
            shards=(_CHUNK * _CHUNKS_PER_SHARD,) if len(values) > _CHUNK else None,
            compressors=BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
        )
        array[:] = values


class CellTable:
    """An open cell table. Reads only what is asked for; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._root = zarr.open_group(path, mode="r")
            past: dict[str, Any] = dict(self._root.attrs["past"])  # type: ignore[arg-type]
        except (OSError, KeyError, ValueError) as error:
            raise InputError(
                "table.unreadable",
                path.name,
                "this folder is not a cell table.",
                "Give a table that `past` or an import wrote.",
            ) from error
        self.n_rows, self.n_genes = (int(n) for n in past["shape"])
        self.row_kind = str(past["row_kind"])
        self.source = str(past["source"])
        self.panel_hash = str(past["panel_hash"])
        diameter = past.get("spot_diameter_um")
        self.spot_diameter_um = None if diameter is None else float(diameter)
        self._panel_totals: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> CellTable:
        """Opens a table; opening it again in this process costs nothing.

        Raises:
            InputError: ``table.unreadable``.
        """
        try:
            changed = (path / "zarr.json").stat().st_mtime_ns
        except OSError:
            changed = 0
        return _opened(path, changed)

    @functools.cached_property
    def symbols(self) -> list[str]:
        """Gene symbols in column order."""
        return self._strings("var/symbol")

    @functools.cached_property
    def gene_ids(self) -> list[str]:
        """Ensembl ids in column order, empty where unknown."""
        return self._strings("var/gene_id")

    @functools.cached_property
    def obs_names(self) -> list[str]:
        """The source's names of the rows."""
        return self._strings("obs/" + str(self._root["obs"].attrs["_index"]))

    def xy(self) -> NDArray[np.float32]:
        """(rows, 2) float32 positions in level-0 pixels."""
        return np.asarray(self._array("obsm/spatial")[:], np.float32)

    def totals(self) -> NDArray[np.float32]:
        """(rows,) float32 counts of each row over all genes."""
        return np.asarray(self._array("obs/total_counts")[:], np.float32)

    def labels(self, name: str = CELL_TYPE) -> tuple[NDArray[np.int32], list[str]] | None:
        """Labels that the rows came with: codes (rows,) int32 with −1 for none, and their names.

        None where the table has no such labels.
        """
        if not self.has_labels(name):
            return None
        codes = np.asarray(self._array(f"obs/{name}/codes")[:], np.int32)
        return codes, self._strings(f"obs/{name}/categories")

    def has_labels(self, name: str = CELL_TYPE) -> bool:
        """Whether rows came with labels."""
        return f"obs/{name}/codes" in self._root

    def n_labels(self, name: str = CELL_TYPE) -> int:
        """How many labels there are to tell rows apart; 0 where rows came with none."""
        return len(self._strings(f"obs/{name}/categories")) if self.has_labels(name) else 0

    def counts(self) -> sparse.csr_matrix:
        """All raw counts, (rows, genes) uint32 CSR."""
        data, indices, indptr = (self._array(f"X/{part}")[:] for part in _SPARSE_PARTS)
        return sparse.csr_matrix((data, indices, indptr), shape=(self.n_rows, self.n_genes))

    def index(self, symbol: str) -> int:
        """The column of a gene.

        Raises:
            InputError: ``gene.unknown``.
        """
        try:
            return self._columns[symbol]
        except KeyError:
            raise InputError(
                "gene.unknown",
                self.path.name,
                f"this table has no gene {symbol!r}.",
                "Search the table's genes; names are symbols such as ERBB2, in capitals.",
            ) from None

    def gene_counts(self, gene: str | int) -> NDArray[np.uint32]:
        """(rows,) uint32 raw counts of one gene."""
        column = self.index(gene) if isinstance(gene, str) else gene
        if not 0 <= column < self.n_genes:
            raise IndexError(f"column {column} of {self.n_genes}")
        start, stop = (int(n) for n in self._gene_starts[column : column + 2])
        dense = np.zeros(self.n_rows, np.uint32)
        if stop > start:
            rows = self._array("layers/by_gene/indices")[start:stop]
            dense[rows] = self._array("layers/by_gene/data")[start:stop]
        return dense

    def expression(self, gene: str, panel: Iterable[str] | None = None) -> NDArray[np.float32]:
        """(rows,) float32 log1p of counts scaled to 10,000.

        The total that is scaled to 10,000 is taken over the table's own panel, or over those of
        its genes that `panel` holds too. Rows without counts are 0.
        """
        totals = self.totals_over(panel)
        counts = self.gene_counts(gene).astype(np.float32)
        scaled = np.zeros(self.n_rows, np.float32)
        np.divide(counts * np.float32(1e4), totals, out=scaled, where=totals > 0)
        return np.log1p(scaled, out=scaled)

    def totals_over(self, panel: Iterable[str] | None) -> NDArray[np.float32]:
        """(rows,) float32 counts of each row over the genes shared with `panel` (None: all)."""
        shared = None if panel is None else sorted(self._columns.keys() & set(panel))
        if shared is None or len(shared) == self.n_genes:
            return self._all_totals
        key = panel_hash(shared)
        with self._lock:
            if key not in self._panel_totals:
                mask = np.zeros(self.n_genes, np.float64)
                mask[[self._columns[symbol] for symbol in shared]] = 1
                self._panel_totals[key] = np.asarray(self.counts() @ mask, np.float32)
                if len(self._panel_totals) > _PANELS_REMEMBERED:
                    self._panel_totals.popitem(last=False)
            self._panel_totals.move_to_end(key)
            return self._panel_totals[key]

    def row(self, row: int) -> dict[str, Any]:
        """One row: its name, x and y (level-0 px), total counts, and counts of expressed genes."""
        if not 0 <= row < self.n_rows:
            raise IndexError(f"row {row} of {self.n_rows}")
        start, stop = (int(n) for n in self._array("X/indptr")[row : row + 2])
        genes = self._array("X/indices")[start:stop]
        counts = self._array("X/data")[start:stop]
        x, y = self._array("obsm/spatial")[row]
        return {
            "name": self.obs_names[row],
            "x": float(x),
            "y": float(y),
            "total_counts": int(counts.sum()),
            "counts": {self.symbols[gene]: int(n) for gene, n in zip(genes, counts, strict=True)},
        }

    @functools.cached_property
    def _columns(self) -> dict[str, int]:
        return {symbol: column for column, symbol in enumerate(self.symbols)}

    @functools.cached_property
    def _gene_starts(self) -> NDArray[np.int64]:
        return np.asarray(self._array("layers/by_gene/indptr")[:], np.int64)

    @functools.cached_property
    def _all_totals(self) -> NDArray[np.float32]:
        return self.totals()

    def _strings(self, name: str) -> list[str]:
        return [str(value) for value in self._array(name)[:]]

    def _array(self, name: str) -> Any:
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = self._root[name]
        return array

    @functools.cached_property
    def _arrays(self) -> dict[str, Any]:
        return {}


_SPARSE_PARTS = ("data", "indices", "indptr")


@functools.lru_cache(maxsize=64)
def _opened(path: Path, _changed: int) -> CellTable:
    return CellTable(path)
