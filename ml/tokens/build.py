"""Vocabularies made from cell tables, or from Nicheformer's files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.errors import InputError
from ml.io.celltable import CellTable
from ml.io.store import content_hash
from ml.report import Report
from ml.tokens.files import VocabularyFile, checked
from ml.tokens.vocabulary import scale_rows, stable_id


def from_tables(tables: list[tuple[str, Path]], report: Report) -> VocabularyFile:
    """The vocabulary of all genes of some cell tables, in the order of their ids.

    Args:
        tables: technology and path of each.
        report: told of cells without counts.

    Returns:
        Non-zero means per technology over all its cells, each scaled to 10,000 over its own table;
        its provenance names the tables with their content hashes.

    Raises:
        InputError: ``table.unreadable``, ``table.no_genes``, ``vocabulary.two_ids`` when a symbol
            has one Ensembl id here and another there, ``vocabulary.duplicate_genes``.
    """
    opened = [(technology, path, CellTable.open(path)) for technology, path in tables]
    ids = _ids_by_symbol((path, table) for _, path, table in opened)
    # Genes sort by Ensembl id, those without one behind, so that the tables' order has no effect.
    symbols = sorted(ids, key=lambda symbol: (not ids[symbol], ids[symbol], symbol))
    position = {symbol: i for i, symbol in enumerate(symbols)}
    sums: dict[str, NDArray[np.float64]] = {}
    made_from = []
    for technology, path, table in opened:
        report.log(f"{path.name}: {table.n_rows:,} rows × {table.n_genes:,} genes, {technology}")
        found = sums.setdefault(technology, np.zeros((2, len(symbols))))
        columns = np.array([position[symbol] for symbol in table.symbols])
        empty = _add_table(table, columns, found)
        if empty:
            report.log(f"{path.name}: {empty:,} rows have no counts and are left out.")
        made_from.append(
            {
                "technology": technology, "table": path.name, "rows": table.n_rows - empty,
                "sha256": content_hash(path)[0],
            }
        )  # fmt: skip
    means = {
        technology: np.divide(total, n, out=np.full(len(symbols), np.nan), where=n > 0)
        for technology, (total, n) in sums.items()
    }
    return checked(
        [ids[s] for s in symbols], symbols, means, {"tables": made_from}, "the tables' genes"
    )


def _add_table(table: CellTable, columns: NDArray[Any], found: NDArray[np.float64]) -> int:
    """Add a table's scaled counts and expressing cells to `found` (2, genes); its empty rows."""
    scaled = scale_rows(table.counts())
    genes = table.n_genes
    found[0, columns] += np.bincount(scaled.indices, weights=scaled.data, minlength=genes)
    found[1, columns] += np.bincount(scaled.indices, minlength=genes)
    return int((np.diff(scaled.indptr) == 0).sum())


def _ids_by_symbol(tables: Iterable[tuple[Path, CellTable]]) -> dict[str, str]:
    """Symbol → Ensembl id without version, empty where no table knows it."""
    ids: dict[str, str] = {}
    for path, table in tables:
        if not table.n_genes:
            raise InputError(
                "table.no_genes", path.name, "It holds positions only.", "Give tables with counts."
            )
        for symbol, given in zip(table.symbols, table.gene_ids, strict=True):
            gene_id = stable_id(given)
            known = ids.setdefault(symbol, gene_id)
            if known and gene_id and known != gene_id:
                raise InputError(
                    "vocabulary.two_ids",
                    f"{path.name}, {symbol}",
                    f"Its Ensembl id is {gene_id} here and {known} in another table.",
                    "Import the tables with ids of one annotation release.",
                )
            ids[symbol] = known or gene_id
    return ids


def from_nicheformer(
    model: Path,
    means: dict[str, Path],
    symbols: list[Path],
    whole_means: bool = False,
) -> VocabularyFile:
    """Nicheformer's vocabulary (theislab/nicheformer, BSD-3).

    Args:
        model: its ``model.h5ad``, whose genes are the Ensembl ids in the order of the tokens.
        means: technology → ``.npy`` with one non-zero mean per gene, NaN where not measured.
        symbols: cell tables or ``.h5ad`` that know symbols of some of the ids; other genes keep
            their id for a symbol.
        whole_means: round means to whole numbers, halves up, as the authors' notebooks do before
            they tokenise.

    Raises:
        InputError: ``nicheformer.unreadable``, ``nicheformer.length``, and those of `checked`.
    """
    gene_ids = [stable_id(gene_id) for gene_id in _h5ad_genes(model)]
    loaded = {name: _read_means(path, len(gene_ids)) for name, path in means.items()}
    if whole_means:
        loaded = {name: np.floor(values + 0.5) for name, values in loaded.items()}
    named: dict[str, str] = {}
    for path in symbols:
        named = {**_symbols(path), **named}
    # Some symbols belong to two ids; the second keeps its id.
    taken: set[str] = set()
    chosen = []
    for gene_id in gene_ids:
        symbol = named.get(gene_id, gene_id)
        chosen.append(gene_id if symbol in taken else symbol)
        taken.add(symbol)
    provenance = {
        "nicheformer": model.name,
        "means": {name: path.name for name, path in means.items()},
        "whole_means": whole_means,
        "symbols": [path.name for path in symbols],
    }
    return checked(gene_ids, chosen, loaded, provenance, model.name)


def _h5ad_genes(path: Path) -> list[str]:
    return [str(name) for name in _h5ad_var(path).index]


def _h5ad_var(path: Path) -> Any:
    """The genes' table of an ``.h5ad``."""
    import anndata
    import h5py

    try:
        with h5py.File(path) as file:
            return anndata.io.read_elem(file["var"])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            "nicheformer.unreadable",
            str(path),
            "It is no AnnData file.",
            "Give model.h5ad of the Nicheformer repository.",
        ) from error


def _read_means(path: Path, genes: int) -> NDArray[np.float64]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            "nicheformer.unreadable",
            str(path),
            "It is no NumPy file of numbers.",
            "Give a *_mean_script.npy of the Nicheformer repository.",
        ) from error
    if values.shape != (genes,):
        raise InputError(
            "nicheformer.length",
            str(path),
            f"It holds {values.size:,} means; the model has {genes:,} genes.",
            "Give the means and the model of one release.",
        )
    return np.asarray(values, np.float64)


def _symbols(path: Path) -> dict[str, str]:
    """Ensembl id → symbol, as a cell table or an ``.h5ad`` knows them."""
    if path.is_dir():
        table = CellTable.open(path)
        ids, symbols = table.gene_ids, table.symbols
    else:
        var = _h5ad_var(path)
        column = next((c for c in ("gene_ids", "gene_id", "ensembl_id") if c in var), None)
        if column is None:
            raise InputError(
                "nicheformer.no_ids",
                str(path),
                "Its genes have no Ensembl ids (no column gene_ids, gene_id or ensembl_id).",
                "Give a table whose genes have both names.",
            )
        ids, symbols = [str(v) for v in var[column]], [str(v) for v in var.index]
    return {stable_id(i): symbol for i, symbol in zip(ids, symbols, strict=True) if i}
