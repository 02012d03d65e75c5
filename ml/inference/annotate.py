"""What a model says of every row of a slide beside its expression: its cell type, and how far the
row's image lies from those that the model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.inference.features import Rows, stop_if_asked
from ml.models.past import PAST
from ml.models.types import ABSTAIN_BELOW, TypeProbe
from ml.training.corpus import ImageSource
from ml.training.trust import described

if TYPE_CHECKING:
    from ml.report import Report

KINDS = ("cell_type", "trust")


def write_trust_of(
    model: PAST, source: ImageSource, folder: Path, hashes: dict[str, str], report: Report
) -> None:
    """Writes ``trust.zarr`` of a slide, in blocks of rows; a model without a density writes none.

    Args:
        source: the slide's rows.
        hashes: ``table_sha256`` and ``model_sha256``.
    """
    from ml.io.annotations import ood_steps, write_trust

    if model.density is None:
        return
    rows = np.arange(len(source))
    threshold = float(model.density.threshold)
    steps = np.zeros(len(rows), np.uint8)
    for block in blocks_of(rows, source):
        stop_if_asked(report)
        distance = model.density.distance(described(model, source, block))
        steps[block] = ood_steps(distance.double().cpu().numpy(), threshold)
        source.give_back()
    write_trust(folder / "trust.zarr", ood=steps, threshold=threshold, **hashes)


def blocks_of(rows: Rows, source: ImageSource) -> list[Rows]:
    """Some rows, as many at a time as the source is read by."""
    return np.array_split(rows, max(-(-len(rows) // source.chunk), 1))


class NamedTypes:
    """The cell type of every row of a slide, as its embeddings come by.

    Args:
        probe: of the model.
        n_rows: of the slide.
    """

    def __init__(self, probe: TypeProbe, n_rows: int) -> None:
        self._probe = probe
        self._codes = np.full(n_rows, -1, np.int64)
        self._sure = np.zeros(n_rows, np.float64)

    def of(self, embeddings: Tensor) -> Tensor:
        """Probability and code of the likeliest type of each row: (n, 2) on the device."""
        probability, code = self._probe.probabilities(embeddings).double().max(1)
        return torch.stack([probability, code.double()], 1)

    def keep(self, rows: Rows, found: NDArray[np.float64]) -> None:
        """Takes what `of` said of some rows."""
        self._sure[rows] = found[:, 0].clip(0, 1)
        self._codes[rows] = found[:, 1].astype(np.int64)

    def write(self, folder: Path, hashes: dict[str, str]) -> None:
        """Writes ``cell_type.zarr``, where rows that are not sure have no type."""
        from ml.io.annotations import write_cell_types

        write_cell_types(
            folder / "cell_type.zarr",
            codes=np.where(self._sure >= ABSTAIN_BELOW, self._codes, -1),
            probability=self._sure,
            types=self._probe.names,
            abstain_below=ABSTAIN_BELOW,
            **hashes,
        )


def publish_annotations(folder: Path, code: str, out: Path) -> dict[str, Any]:
    """Puts a slide's annotations in their place; their paths in `out` by kind, None for none."""
    from ml.inference.slide import publish

    found: dict[str, Any] = dict.fromkeys(KINDS)
    for kind in KINDS:
        made = folder / f"{kind}.zarr"
        if made.is_dir():
            path = Path("annotations") / f"{code}-{kind}.zarr"
            publish(made, out / path)
            found[kind] = str(path)
    return found
