"""Types and trust of the rows of a table as Arrow streams, one uint8 column each."""

from __future__ import annotations

import json

import numpy as np

from backend.cells.expression import arrow_stream, open_table
from backend.cells.models import CellTable, Layer
from backend.jobs.services import local
from ml.io.annotations import COLUMNS, MOST_TYPES, NOT_ASSIGNED, Annotations


def annotated_types(table: CellTable) -> bytes | None:
    """The types that somebody gave the rows: column `codes`, 255 where there is none.

    None where the table has no labels, or more than a byte can tell apart.
    """
    labels = open_table(table.artifact).labels()
    if labels is None or len(labels[1]) > MOST_TYPES:
        return None
    codes, names = labels
    column = np.where(codes < 0, NOT_ASSIGNED, codes).astype(np.uint8)
    about = {"kind": "cell_type", "origin": "annotated", "types": json.dumps(names)}
    return arrow_stream({"codes": column}, about)


def layer_annotations(layer: Layer, model: str) -> bytes:
    """What a model says of each row: columns `codes` and `probability`, or `ood`."""
    stored = Annotations.open(local(layer.artifact))
    about = {"kind": stored.kind, "origin": "predicted", "model": model}
    for name in ("types", "method", "abstain_below", "threshold"):
        if name in stored.attributes:
            value = stored.attributes[name]
            about[name] = value if isinstance(value, str) else json.dumps(value)
    return arrow_stream({name: stored.column(name) for name in COLUMNS[stored.kind]}, about)


def has_annotated_types(table: CellTable) -> bool:
    """Whether somebody gave the rows types, no more than a byte can tell apart."""
    return table.is_measured and 0 < open_table(table.artifact).n_labels() <= MOST_TYPES
