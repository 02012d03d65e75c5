"""A study's own cell files: AnnData with raw counts and positions, checked before they go in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ml.errors import InputError
from ml.io.celltable import CELL_TYPE, is_counts

_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?$")
_LONGEST_SYMBOL = 120
MOST_CELL_TYPES = 100
_LONGEST_CELL_TYPE = 80
_NUMBER = re.compile(r"\d+(\.\d+)?$")


@dataclass(frozen=True)
class SourceCells:
    """Counts (rows, genes) CSR; `xy` (rows, 2) float32 level-0 pixels.

    `cell_types` are the rows' labels, "" where a row has none; None where the file has no labels.
    """

    counts: sparse.csr_matrix
    symbols: list[str]
    gene_ids: list[str]
    xy: NDArray[np.float32]
    obs_names: list[str]
    cell_types: list[str] | None


def read_cells(path: Path, *, width: int, height: int) -> SourceCells:
    """Reads and checks an AnnData file (.h5ad or .zarr) of one slide.

    Args:
        path: the file.
        width, height: of the slide, in level-0 pixels; no row may lie outside.

    Raises:
        InputError: a ``cells.…`` code, naming the file and the first row that is wrong.
    """
    table = open_anndata(path)
    obs_names = [str(name) for name in table.obs_names]
    if not obs_names:
        raise _problem("cells.empty", path, "there is no row.", "Leave `cells` empty instead.")
    xy = _positions(table, path, obs_names, width, height)
    symbols = [str(name) for name in table.var_names]
    _check_symbols(symbols, path)
    ids = table.var["gene_id"].tolist() if "gene_id" in table.var else []
    gene_ids = [i if isinstance(i, str) else "" for i in ids] or [""] * len(symbols)
    cell_types = cell_types_of(table, path)
    counts = _counts(table, path, obs_names)
    return SourceCells(counts, symbols, gene_ids, xy, obs_names, cell_types)


def check_shared_genes(panels: Sequence[tuple[str, list[str]]]) -> None:
    """All tables of a study with counts must have genes in common, else nothing can be learned.

    Args:
        panels: (file name, symbols) of each table.

    Raises:
        InputError: ``cells.no_shared_genes``, naming the first table that matches none before it.
    """
    shared: set[str] | None = None
    for name, symbols in panels:
        if not symbols:
            continue
        matching = set(symbols) if shared is None else shared & set(symbols)
        if not matching:
            raise InputError(
                "cells.no_shared_genes",
                name,
                f"its gene names ({', '.join(symbols[:3])}, …) match none of the study's other "
                "tables.",
                "Use the same naming everywhere: gene symbols such as ERBB2, in capitals.",
            )
        shared = matching


def open_anndata(path: Path) -> Any:
    """An AnnData file (.h5ad or .zarr), or InputError ``cells.unreadable``."""
    import anndata

    try:
        return anndata.read_zarr(path) if path.is_dir() else anndata.read_h5ad(path)
    except Exception as error:
        # AnnData, h5py and zarr raise whatever they happen to stumble over.
        raise _problem(
            "cells.unreadable",
            path,
            f"this is not an AnnData file that can be read ({type(error).__name__}).",
            "Write it with anndata's write_h5ad or write_zarr, and check that it is whole.",
        ) from error


def _positions(
    table: Any, path: Path, obs_names: list[str], width: int, height: int
) -> NDArray[np.float32]:
    if "spatial" not in table.obsm:
        raise _problem(
            "cells.no_positions",
            path,
            'obsm["spatial"] is missing.',
            "Store each row's x and y in level-0 pixels of the slide there.",
        )
    xy = np.asarray(table.obsm["spatial"])
    if xy.ndim != 2 or xy.shape[1] != 2 or xy.dtype.kind not in "iuf":
        raise _problem(
            "cells.positions",
            path,
            f'obsm["spatial"] has shape {xy.shape}, not (rows, 2) numbers.',
            "Store x and y in level-0 pixels of the slide.",
        )
    inside = (xy >= 0).all(axis=1) & (xy[:, 0] < width) & (xy[:, 1] < height)
    if not inside.all():
        row = int(np.flatnonzero(~inside)[0])
        raise _problem(
            "cells.outside",
            path,
            f"{int((~inside).sum())} of {len(xy)} rows lie outside the slide "
            f"({width}×{height} pixels), first row {row} ({obs_names[row]}) at "
            f"x={xy[row, 0]:.6g}, y={xy[row, 1]:.6g}.",
            "Give level-0 pixels of this slide (not microns, and not of another resolution).",
        )
    return xy.astype(np.float32)


def _check_symbols(symbols: list[str], path: Path) -> None:
    remedy = 'Put gene symbols (e.g. ERBB2) in var_names and Ensembl ids in var["gene_id"].'
    if symbols and all(_NUMBER.match(s) for s in symbols):
        raise _problem(
            "cells.gene_names", path, "its gene names are numbers, which match no gene.", remedy
        )
    if symbols and all(_ENSEMBL.match(s) for s in symbols):
        raise _problem(
            "cells.gene_names", path, "its gene names are Ensembl ids, not symbols.", remedy
        )
    seen: set[str] = set()
    for column, symbol in enumerate(symbols):
        if not symbol.strip() or symbol in seen:
            what = f"gene {symbol!r} is there twice" if symbol.strip() else "a gene has no name"
            raise _problem(
                "cells.gene_names",
                path,
                f"{what} (column {column}).",
                "Give each gene one column: add up the counts of columns with the same symbol.",
            )
        if len(symbol) > _LONGEST_SYMBOL:
            raise _problem(
                "cells.gene_names",
                path,
                f"the gene name {symbol[:40]!r}… has {len(symbol)} characters (column {column}).",
                f"Shorten it to {_LONGEST_SYMBOL}.",
            )
        seen.add(symbol)


def _counts(table: Any, path: Path, obs_names: list[str]) -> sparse.csr_matrix:
    if table.n_vars == 0 or table.X is None:
        if table.n_vars:
            raise _problem("cells.no_counts", path, "X is missing.", "Store raw counts in X.")
        return sparse.csr_matrix((len(obs_names), 0), dtype=np.uint32)
    counts = sparse.csr_matrix(table.X)
    if not is_counts(counts.data):
        data = counts.data.astype(np.float64)
        bad = int(np.flatnonzero(~((data >= 0) & (data % 1 == 0)))[0])
        row = int(np.searchsorted(counts.indptr, bad, side="right")) - 1
        raise _problem(
            "cells.not_counts",
            path,
            f"X holds {data[bad]:.6g} in row {row} ({obs_names[row]}): not a raw count.",
            "Store raw counts (whole numbers from 0) in X, not normalised or logged values.",
        )
    return counts.astype(np.uint32)


def cell_types_of(table: Any, path: Path, column: str = CELL_TYPE) -> list[str] | None:
    """Labels in a column of obs, which somebody gave the rows; a missing one is "".

    None without the column, or where it labels no row.

    Raises:
        InputError: ``cells.cell_types`` for what are no names of cell types.
    """
    if column not in table.obs:
        return None
    values = table.obs[column].astype(object)
    where = f'obs["{column}"]'
    missing = values.isna().to_numpy()
    if any(isinstance(value, float) for value in values[~missing]):
        raise _problem(
            "cells.cell_types",
            path,
            f"{where} holds numbers with decimals, which name no cell type.",
            "Store names such as T cell there, or rename the column.",
        )
    names = ["" if gone else str(v).strip() for v, gone in zip(values, missing, strict=True)]
    found = set(names) - {""}
    if len(found) > MOST_CELL_TYPES:
        raise _problem(
            "cells.cell_types",
            path,
            f"{where} has {len(found)} different values, more than {MOST_CELL_TYPES} cell types.",
            "Store names of cell types there, not of single cells, or rename the column.",
        )
    for row, name in enumerate(names):
        if len(name) > _LONGEST_CELL_TYPE:
            raise _problem(
                "cells.cell_types",
                path,
                f"the cell type of row {row} ({table.obs_names[row]}) has {len(name)} characters.",
                f"Shorten it to {_LONGEST_CELL_TYPE}.",
            )
    return names if found else None


def _problem(code: str, path: Path, what: str, remedy: str) -> InputError:
    return InputError(code, path.name, what, remedy)
