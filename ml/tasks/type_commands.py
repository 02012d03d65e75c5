"""`past types`: cell types of a study's measured cells from a reference or from marker genes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.errors import InputError
from ml.report import plain

Called = tuple[NDArray[np.int64], NDArray[np.float64]]


def add_commands(commands: Any) -> None:
    """Adds `past types` to the subparsers of `past`."""
    types = commands.add_parser("types", help="cell types of a study's measured cells")
    ways = types.add_subparsers(dest="way", required=True)
    for name, said in (
        ("transfer", "from an annotated reference, by a classifier on the genes they share"),
        ("knn", "from an annotated reference, by the votes of the nearest of its cells"),
    ):
        way = ways.add_parser(name, help=said)
        way.add_argument("reference", type=Path, help="AnnData (.h5ad, .zarr) with raw counts")
        way.add_argument("--labels", default="cell_type", help="column of obs with the types")
        if name == "knn":
            way.add_argument("--neighbours", type=int, default=15)
        way.set_defaults(run=_from_reference)
        _add_common(way)
    markers = ways.add_parser("zero-shot", help="from sets of marker genes, without a reference")
    markers.add_argument("--markers", type=Path, help="JSON file of marker sets")
    markers.add_argument("--types", nargs="*", metavar="SET", help="only these sets")
    markers.add_argument(
        "--prediction", type=Path, help="folder that `past predict` wrote: predicted expression"
    )
    markers.set_defaults(run=_zero_shot)
    _add_common(markers)


def _add_common(way: Any) -> None:
    way.add_argument("study", type=Path, help="folder that `past convert` wrote")
    way.add_argument("out", type=Path, help="folder for types/ and report.json")
    way.add_argument("--slides", nargs="*", metavar="SLIDE", help="only these slides")


def _from_reference(given: argparse.Namespace) -> int:
    from ml.io.store import content_hash
    from ml.tasks.label_transfer import Transfer, expression_on, read_reference, shared_genes

    neighbours = getattr(given, "neighbours", None)
    if neighbours is not None and neighbours < 1:
        raise InputError("types.neighbours", "--neighbours", "It is below 1.", "Give 1 or more.")
    reference = read_reference(given.reference, given.labels)
    slides = list(_measured(given))
    genes = reference.symbols
    for code, table, _ in slides:
        genes = shared_genes(genes, table.symbols, f"slide {code}")
    transfer = Transfer.fit(reference, genes)

    called: dict[str, Called] = {}
    for code, table, _ in slides:
        codes, sure = transfer.call(expression_on(table.counts(), table.symbols, genes), neighbours)
        # A cell without a count of these genes says nothing.
        empty = table.totals_over(genes) <= 0
        called[code] = np.where(empty, -1, codes), np.where(empty, 0.0, sure)
    about = {"reference": str(given.reference), **transfer.report, **transfer.scores(neighbours)}
    return _write(
        given, slides, transfer.probe.names, called, about, content_hash(given.reference)[0]
    )


def _zero_shot(given: argparse.Namespace) -> int:
    from ml.io.store import content_hash
    from ml.tasks import marker_sets

    path = given.markers or marker_sets.STANDARD
    sets = marker_sets.read_marker_sets(path)
    if given.types:
        unknown = set(given.types) - {s.name for s in sets}
        if unknown:
            raise InputError(
                "markers.unknown",
                "--types",
                f"There is no set {', '.join(sorted(unknown))}.",
                f"Sets are: {', '.join(s.name for s in sets)}.",
            )
        sets = [s for s in sets if s.name in given.types]
    slides = list(_measured(given, given.prediction))
    symbols = set.intersection(*(set(genes.symbols) for _, genes, _ in slides))
    columns = marker_sets.on_panel(sets, sorted(symbols))
    if len(columns) < 2:
        raise InputError(
            "markers.few",
            str(path),
            f"{len(columns)} of its sets have {marker_sets.FEWEST_GENES} genes on the panel; "
            "2 sets are needed.",
            "Give sets of the panel's genes with --markers.",
        )
    used = sorted({sorted(symbols)[c] for of in columns.values() for c in of.tolist()})
    columns = marker_sets.on_panel(sets, used)

    # Over all slides together: one slide alone may lack what another is full of.
    values = [
        np.stack([(g.gene if given.prediction else g.expression)(s) for s in used], axis=1)
        for _, g, _ in slides
    ]
    scores = marker_sets.marker_scores(np.concatenate(values), list(columns.values()))
    odds = np.exp(scores - scores.max(1, keepdims=True))
    ends = np.cumsum([len(of) for of in values])[:-1]
    codes = np.split(scores.argmax(1), ends)
    sure = np.split((odds / odds.sum(1, keepdims=True)).max(1), ends)
    called = {code: (c, p) for (code, _, _), c, p in zip(slides, codes, sure, strict=True)}
    about = {
        "markers": str(path), "types": list(columns), "calibrated": False,
        "genes": {name: [used[c] for c in of.tolist()] for name, of in columns.items()},
    }  # fmt: skip
    return _write(given, slides, list(columns), called, about, content_hash(path)[0])


def _measured(
    given: argparse.Namespace, prediction: Path | None = None
) -> Iterator[tuple[str, Any, Any]]:
    """Slides with expression: code, what its genes are read from, and labels where it has any."""
    from ml.io.celltable import CellTable
    from ml.io.layers import Layer
    from ml.io.study.converted import check_slides, converted_study

    slides = converted_study(given.study)["slides"]
    check_slides(slides, given.slides or [], "--slides")
    found = False
    for slide in slides:
        if given.slides and slide["code"] not in given.slides:
            continue
        cells = slide["cells"]
        table = CellTable.open(given.study / cells["path"]) if cells else None
        labels = table.labels() if table else None
        if prediction is not None:
            layer = prediction / "layers" / f"{slide['code']}.zarr"
            if layer.is_dir():
                found = True
                own = Layer.open(layer)
                same = table is not None and table.n_rows == own.n_rows
                yield slide["code"], own, labels if same else None
        elif table is not None and table.n_genes and table.row_kind == "cell":
            found = True
            yield slide["code"], table, labels
    if not found:
        raise InputError(
            "types.no_cells",
            str(prediction or given.study),
            "No slide has cells with expression.",
            "Give a study with measured cells, or a prediction for zero-shot types.",
        )


def _write(
    given: argparse.Namespace,
    slides: list[tuple[str, Any, Any]],
    names: list[str],
    called: dict[str, Called],
    about: dict[str, Any],
    source_sha256: str,
) -> int:
    """Types of each slide as annotations, and a report of all."""
    from ml.io.annotations import write_cell_types
    from ml.io.store import content_hash
    from ml.models.checkpoint import write_json
    from ml.models.types import ABSTAIN_BELOW
    from ml.tasks.marker_sets import read_marker_sets

    alike = read_marker_sets()
    method = given.way.replace("-", "_")
    results = []
    for code, genes, labels in slides:
        codes, sure = called[code]
        path = Path("types") / f"{code}.zarr"
        table = getattr(genes, "table_sha256", None) or content_hash(genes.path)[0]
        write_cell_types(
            given.out / path,
            codes=codes,
            probability=sure,
            types=names,
            abstain_below=0.0 if method == "zero_shot" else ABSTAIN_BELOW,
            table_sha256=table,
            model_sha256=source_sha256,
            method=method,
        )
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        results.append(
            {
                "slide_code": code, "path": str(path), "n_rows": len(codes),
                "not_assigned": int((codes < 0).sum()),
                "cells": dict(zip(names, counts.tolist(), strict=True)),
                "agreement": _agreement(codes, names, labels, alike),
            }
        )  # fmt: skip
    report = plain({"method": method, **about, "slides": results})
    write_json(given.out / "report.json", report)
    print(json.dumps(report))
    return 0


def _agreement(
    codes: NDArray[np.int64], names: list[str], labels: Any, alike: list[Any]
) -> dict[str, Any] | None:
    """Against the labels that the slide came with; types count as one where a marker set says so.

    Cells whose label is none of the names are `other`: right for them is no name.
    """
    from ml.evaluation.classification import confusions, macro_f1

    if labels is None:
        return None
    own, own_names = labels
    number = {_known(name, alike): code for code, name in enumerate(names)}
    to = np.array([number.get(_known(name, alike), -1) for name in own_names] + [-1])
    truth, labelled = to[own], own >= 0
    known = labelled & (truth >= 0)
    if not known.any():
        return None
    named = known & (codes >= 0)
    # A cell that gets no name is missed by its own type and called no other.
    called = np.where(codes >= 0, codes, len(names))
    zeros = np.zeros(int(known.sum()), np.int64)
    confusion = confusions(truth[known], called[known], zeros, len(names) + 1)
    other = labelled & (truth < 0)
    return {
        "n": int(known.sum()),
        "macro_f1": float(macro_f1(confusion[0])),
        "named": float(named.sum() / known.sum()),
        "named_accuracy": float((codes == truth)[named].mean()) if named.any() else None,
        "other": int(other.sum()),
        "other_not_assigned": int((other & (codes < 0)).sum()),
    }


def _known(name: str, alike: list[Any]) -> str:
    return next((s.name for s in alike if s.is_called(name)), name)
