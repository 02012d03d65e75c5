"""Annotations: what is said of each row of a cell table, one byte a row and column.

A Zarr group per slide and kind, in the row order of the cell table. Two kinds:

``cell_type``
    ``codes``, the place of the row's type in ``types``, `NOT_ASSIGNED` where none was named;
    ``probability``, that of the most likely type, in steps of 1/255.
``trust``
    ``ood``, how far the row's image lies from those that the model was trained on: 255 ×
    distance / (2 × threshold), cut at 255, so that from `BEYOND` on it lies beyond the threshold.

A column of a million cells is one read of a megabyte.
"""

from __future__ import annotations

import functools
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from ml.errors import InputError

FORMAT, VERSION = "past-annotations", 1
COLUMNS = {"cell_type": ("codes", "probability"), "trust": ("ood",)}
NOT_ASSIGNED = 255
BEYOND = 128
# One code is kept for rows that no type was named for.
MOST_TYPES = 255
_CHUNK = 2**20


def write_cell_types(
    path: Path,
    *,
    codes: NDArray[np.integer[Any]],
    probability: NDArray[np.floating[Any]],
    types: list[str],
    abstain_below: float,
    table_sha256: str,
    model_sha256: str,
    method: str = "probe",
) -> None:
    """Writes the types of all rows; the folder appears when it is complete.

    Args:
        codes: (rows,) places in `types`; −1 or `NOT_ASSIGNED` where none is named.
        probability: (rows,) of the most likely type, 0…1.
        types: names, each once.
        abstain_below: no type is named below this probability.
        method: how the types were found.

    Raises:
        ValueError: the parts do not fit together.
    """
    if not types or len(types) > MOST_TYPES or len(set(types)) != len(types):
        raise ValueError(f"there must be 1 to {MOST_TYPES} types with different names")
    if codes.shape != probability.shape or codes.ndim != 1:
        raise ValueError("there must be one code and one probability per row")
    named = (codes >= 0) & (codes != NOT_ASSIGNED)
    if (codes[named] >= len(types)).any() or (codes < -1).any():
        raise ValueError("a code names no type")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probabilities lie between 0 and 1")
    _write(
        path,
        "cell_type",
        {
            "codes": np.where(named, codes, NOT_ASSIGNED).astype(np.uint8),
            "probability": np.rint(probability * 255).astype(np.uint8),
        },
        {"types": list(types), "method": method, "abstain_below": float(abstain_below)},
        table_sha256,
        model_sha256,
    )


def write_trust(
    path: Path,
    *,
    ood: NDArray[np.uint8],
    threshold: float,
    table_sha256: str,
    model_sha256: str,
) -> None:
    """Writes how far all rows lie from the training rows; see `ood_steps`.

    Args:
        ood: (rows,) uint8 steps.
        threshold: the squared distance beyond which a row is unlike the training rows.

    Raises:
        ValueError: `ood` is not (rows,) uint8, or the threshold is not a positive number.
    """
    if ood.ndim != 1 or ood.dtype != np.uint8:
        raise ValueError("there must be one uint8 per row")
    if not (np.isfinite(threshold) and threshold > 0):
        raise ValueError("the threshold must be a positive number")
    _write(path, "trust", {"ood": ood}, {"threshold": threshold}, table_sha256, model_sha256)


def ood_steps(distance: NDArray[np.floating[Any]], threshold: float) -> NDArray[np.uint8]:
    """Distances (rows,) in uint8 steps: ≥ `BEYOND` exactly where they exceed the threshold."""
    steps = np.rint(255 * np.clip(distance / (2 * threshold), 0, 1))
    # Rounding must not move a row across the threshold, which lies between two steps.
    at = np.where(distance > threshold, np.maximum(steps, BEYOND), np.minimum(steps, BEYOND - 1))
    return np.asarray(at, np.uint8)


def _write(
    path: Path,
    kind: str,
    columns: dict[str, NDArray[np.uint8]],
    about: dict[str, Any],
    table_sha256: str,
    model_sha256: str,
) -> None:
    n_rows = len(next(iter(columns.values())))
    if not n_rows:
        raise ValueError("there must be rows")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        root = zarr.open_group(part, mode="w", zarr_format=3)
        for name, values in columns.items():
            root.create_array(
                name,
                shape=(n_rows,),
                dtype="uint8",
                chunks=(min(n_rows, _CHUNK),),
                compressors=BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle"),
            )[:] = values
        root.attrs.update(
            {
                "format": FORMAT, "version": VERSION, "kind": kind, **about, "n_rows": n_rows,
                "table_sha256": table_sha256, "model_sha256": model_sha256,
            }
        )  # fmt: skip
        if path.exists():
            shutil.rmtree(path)
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


class Annotations:
    """Open annotations of one kind. Safe to share between threads. Made by :meth:`open`.

    Attributes:
        kind: ``cell_type`` or ``trust``.
        n_rows: rows of the cell table.
        attributes: what is said of all rows: ``table_sha256``, ``model_sha256``, and of cell types
            ``types``, ``method``, ``abstain_below``, of trust ``threshold``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._root = zarr.open_group(path, mode="r")
            self.attributes: dict[str, Any] = dict(self._root.attrs)
            if self.attributes["format"] != FORMAT or self.attributes["version"] > VERSION:
                raise ValueError("another format")
            self.kind = str(self.attributes["kind"])
            self.n_rows = int(self.attributes["n_rows"])
            for name in COLUMNS[self.kind]:
                if self._root[name].shape != (self.n_rows,):  # type: ignore[union-attr]
                    raise ValueError(f"{name} has another length")
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(
                "annotations.unreadable",
                path.name,
                "this folder holds no annotations that can be read here.",
                "Give annotations that a prediction of this version wrote.",
            ) from error

    @classmethod
    def open(cls, path: Path) -> Annotations:
        """Opens annotations; opening them again in this process costs nothing.

        Raises:
            InputError: ``annotations.unreadable``.
        """
        try:
            changed = (path / "zarr.json").stat().st_mtime_ns
        except OSError:
            changed = 0
        return _opened(path, changed)

    def column(self, name: str) -> NDArray[np.uint8]:
        """(rows,) uint8 of one column: ``codes`` or ``probability``; ``ood``.

        Raises:
            KeyError: annotations of this kind have no such column.
        """
        if name not in COLUMNS[self.kind]:
            raise KeyError(name)
        array: Any = self._root[name]
        return np.asarray(array[:], np.uint8)


@functools.lru_cache(maxsize=64)
def _opened(path: Path, _changed: int) -> Annotations:
    return Annotations(path)
