"""One gene over all rows of a table as a uint8 column, from measured counts or a model's layer.

The unit that is displayed, differenced and scored is log1p of counts scaled to 10,000 over the
genes that table and model share; a measured column without a layer uses the table's own panel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from backend.cells.models import CellTable, Layer
from backend.jobs.models import Artifact
from backend.jobs.services import local
from ml.io import celltable, layers

ARROW_STREAM = "application/vnd.apache.arrow.stream"


# Both keep what they opened, bounded, per process and path; a path in the object store is its hash.
def open_table(artifact: Artifact) -> celltable.CellTable:
    return celltable.CellTable.open(local(artifact))


def open_layer(artifact: Artifact) -> layers.Layer:
    return layers.Layer.open(local(artifact))


@dataclass(frozen=True)
class Column:
    """value = offset + scale × `levels`, in `unit`. `pearson` is with the other origin's values."""

    symbol: str
    levels: NDArray[np.uint8]
    scale: float
    offset: float
    unit: str
    origin: str
    model: str = ""
    pearson: float | None = None

    def arrow(self) -> bytes:
        """An Arrow IPC stream of one uint8 column `value`, the rest as schema metadata."""
        present = np.flatnonzero(counts := np.bincount(self.levels, minlength=256))
        shares = np.cumsum(counts) / max(self.levels.size, 1)
        lowest, highest = (present[0], present[-1]) if present.size else (0, 0)
        metadata = {
            "symbol": self.symbol,
            "unit": self.unit,
            "origin": self.origin,
            "scale": repr(self.scale),
            "offset": repr(self.offset),
            "min": self._value(lowest),
            "max": self._value(highest),
            "p01": self._value(np.searchsorted(shares, 0.01)),
            "p99": self._value(np.searchsorted(shares, 0.99)),
        }
        if self.model:
            metadata["model"] = self.model
        if self.pearson is not None:
            metadata["pearson"] = repr(self.pearson)
        return arrow_stream({"value": self.levels}, metadata)

    def _value(self, level: int | np.integer) -> str:
        return repr(self.offset + self.scale * int(level))


def arrow_stream(columns: dict[str, NDArray], metadata: dict[str, str] | None = None) -> bytes:
    """Equally long columns as an Arrow IPC stream of one record batch."""
    arrays = [pa.array(values) for values in columns.values()]
    schema = pa.schema(
        [pa.field(name, array.type) for name, array in zip(columns, arrays, strict=True)],
        metadata=metadata,
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.record_batch(arrays, schema=schema))
    return sink.getvalue().to_pybytes()


def coordinates(table: CellTable) -> bytes:
    """Arrow stream of x and y, float32 level-0 pixels, in row order."""
    xy = np.ascontiguousarray(open_table(table.artifact).xy().T, dtype=np.float32)
    return arrow_stream({"x": xy[0], "y": xy[1]})


def measured_column(table: CellTable, symbol: str, layer: Layer | None = None) -> Column | None:
    """The measured column of a gene, or None when the table has no such gene.

    With `layer` the total is taken over the genes that table and layer share.
    """
    values = _measured(table, symbol, layer)
    if values is None:
        return None
    return _quantised(symbol, values)


def predicted_column(layer: Layer, symbol: str, model: str) -> Column | None:
    """A layer's column of a gene, or None when the layer has no such gene.

    Carries Pearson's r with the measured column of the same table where there is one and neither
    is constant.
    """
    stored = open_layer(layer.artifact)
    if symbol not in stored.symbols:
        return None
    levels, scale, offset = stored.gene_uint8(symbol)
    column = Column(symbol, levels, float(scale), float(offset), layer.unit, "predicted", model)
    measured = _measured(layer.table, symbol, layer)
    if measured is None:
        return column
    return replace(column, pearson=_pearson(levels, measured))


def _measured(table: CellTable, symbol: str, layer: Layer | None) -> NDArray[np.float32] | None:
    if not table.is_measured:
        return None
    stored = open_table(table.artifact)
    if symbol not in stored.symbols:
        return None
    return stored.expression(symbol, panel=open_layer(layer.artifact).symbols if layer else None)


def _quantised(symbol: str, values: NDArray[np.float32]) -> Column:
    """Values to 256 even levels from 0 (or the lowest value) to the highest."""
    low = min(0.0, float(values.min(initial=0.0)))
    high = float(values.max(initial=0.0))
    scale = (high - low) / 255 or 1.0
    levels = ((values - np.float32(low)) * np.float32(1 / scale) + np.float32(0.5)).astype(np.uint8)
    return Column(symbol, levels, scale, low, layers.UNIT, "measured")


def _pearson(first: NDArray, second: NDArray) -> float | None:
    """Pearson's r; linear quantisation of either does not change it. None when one is constant."""
    a = first.astype(np.float32) - np.float32(first.mean())
    b = second - np.float32(second.mean(dtype=np.float64))
    norm = float(np.sqrt(np.dot(a, a).astype(np.float64) * np.dot(b, b).astype(np.float64)))
    return float(np.dot(a, b)) / norm if norm > 0 else None
