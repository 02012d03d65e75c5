"""Cell types without labels: from sets of marker genes and z-scored expression."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.errors import InputError

STANDARD = Path(__file__).with_name("markers.json")
# A single gene is too easily something else's.
FEWEST_GENES = 2


@dataclass(frozen=True)
class MarkerSet:
    """A cell type, other names of it, and the genes that tell it."""

    name: str
    also: tuple[str, ...]
    genes: tuple[str, ...]

    def is_called(self, label: str) -> bool:
        """Whether a label names this type: the same word but for case, plural, punctuation."""
        return _word(label) in {_word(name) for name in (self.name, *self.also)}


def read_marker_sets(path: Path = STANDARD) -> list[MarkerSet]:
    """Marker sets of a JSON file like ``markers.json`` beside this module.

    Raises:
        InputError: ``markers.unreadable``, naming the file.
    """
    try:
        sets = [
            MarkerSet(
                _text(s["name"]),
                tuple(_text(name) for name in s.get("also", [])),
                tuple(_text(gene) for gene in s["genes"]),
            )
            for s in json.loads(path.read_text(encoding="utf-8"))["sets"]
        ]
        if not sets or len({s.name for s in sets}) != len(sets):
            raise ValueError("no set, or one twice")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "markers.unreadable",
            str(path),
            f"It holds no marker sets that can be read ({error}).",
            'Write {"sets": [{"name": "T cell", "genes": ["CD3D", "CD3E"]}, …]}.',
        ) from error
    return sets


def on_panel(sets: Sequence[MarkerSet], symbols: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Columns of each set's genes on a panel; sets with fewer than `FEWEST_GENES` are left out."""
    place = {symbol: column for column, symbol in enumerate(symbols)}
    found = {
        s.name: np.array([place[gene] for gene in s.genes if gene in place], np.int64) for s in sets
    }
    return {name: columns for name, columns in found.items() if len(columns) >= FEWEST_GENES}


def marker_scores(
    expression: NDArray[np.floating], columns: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Mean z-score of each set's genes: expression (rows, genes) → (rows, sets).

    Genes are z-scored over the given rows, so these should be those of whole slides.
    """
    out = np.empty((len(expression), len(columns)))
    used = np.unique(np.concatenate(columns))
    values = expression[:, used].astype(np.float64)
    deviation = values.std(0)
    z = (values - values.mean(0)) / np.where(deviation > 1e-6, deviation, 1.0)
    for number, of in enumerate(columns):
        out[:, number] = z[:, np.searchsorted(used, of)].mean(1)
    return out


def sets_of_labels(
    sets: Sequence[MarkerSet], names: Sequence[str], symbols: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """Columns of the marker set of each label that has one on the panel."""
    available = on_panel(sets, symbols)
    found = {}
    for label in names:
        own = next((s.name for s in sets if s.is_called(label)), None)
        if own in available:
            found[label] = available[own]
    return found


@functools.lru_cache(maxsize=1024)
def _word(name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", " ", name.lower().replace("+", " ")).split()
    words = [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words]
    return " ".join(word for word in words if word != "cell") or "cell"


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no name")
    return value.strip()
