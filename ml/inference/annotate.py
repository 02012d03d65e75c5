"""What a model says of every row of a slide beside its expression: its cell type, and how far the
row's image lies from those that the model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ml.inference.features import stop_if_asked
from ml.models.past import PAST
from ml.models.types import ABSTAIN_BELOW
from ml.training.corpus import ImageSource
from ml.training.trust import described

if TYPE_CHECKING:
    from ml.report import Report

KINDS = ("cell_type", "trust")


def annotate(
    model: PAST,
    source: ImageSource,
    folder: Path,
    hashes: dict[str, str],
    report: Report,
    *,
    declined: bool,
) -> None:
    """Writes ``cell_type.zarr`` and ``trust.zarr`` of a slide, in blocks of rows.

    Args:
        source: the slide's rows.
        hashes: ``table_sha256`` and ``model_sha256``.
        declined: the slide looks unlike the training slides: no type of its rows is named.

    A model without a probe writes no types, one without a density no trust.
    """
    from ml.io.annotations import ood_steps, write_cell_types, write_trust

    rows = np.arange(len(source))
    blocks = np.array_split(rows, max(-(-len(rows) // source.chunk), 1))
    if model.density is not None:
        threshold = float(model.density.threshold)
        steps = np.zeros(len(rows), np.uint8)
        for block in blocks:
            stop_if_asked(report)
            distance = model.density.distance(described(model, source, block))
            steps[block] = ood_steps(distance.double().cpu().numpy(), threshold)
            source.give_back()
        write_trust(folder / "trust.zarr", ood=steps, threshold=threshold, **hashes)
    if model.types is not None and not declined:
        member = model.networks()[0]
        codes, sure = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.float64)
        for block in blocks:
            stop_if_asked(report)
            with torch.inference_mode():
                embedded = member.embed(source.images(block, model))
                probability, code = model.types.probabilities(embedded).double().max(1)
            codes[block] = code.cpu().numpy()
            sure[block] = probability.cpu().numpy().clip(0, 1)
            source.give_back()
        write_cell_types(
            folder / "cell_type.zarr",
            codes=np.where(sure >= ABSTAIN_BELOW, codes, -1),
            probability=sure,
            types=model.types.names,
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
