"""Fits what a model knows of its training images, so that it can decline what is unlike them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ml.models.density import DECLINE_ABOVE, QUANTILE, SHARE_ROWS, Density
from ml.models.past import PAST
from ml.training.corpus import Corpus, ImageSource, Rows

# Training rows that the density is fitted to at most.
FIT_ROWS = 50_000


def spread(rows: Rows, most: int) -> Rows:
    """At most `most` of some rows, evenly spread over them."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


@torch.no_grad()
def described(model: PAST, source: ImageSource, rows: Rows) -> Tensor:
    """What the density is over, of some rows: (n, inputs) float32."""
    parts = np.array_split(rows, max(-(-len(rows) // source.chunk), 1))
    return torch.cat([model.described(source.alone(part, model)) for part in parts])


def ood_share(model: PAST, source: ImageSource) -> float | None:
    """Share of a slide's rows beyond the threshold; None for a model without a density."""
    if model.density is None or not len(source):
        return None
    rows = spread(np.arange(len(source)), SHARE_ROWS)
    return float(model.density.beyond(described(model, source, rows)).double().mean())


def is_declined(share: float | None) -> bool:
    """Whether a slide with this share of rows beyond the threshold is declined."""
    return share is not None and share > DECLINE_ABOVE


def fit_density(model: PAST, train: Corpus, held_out: dict[str, Corpus]) -> dict[str, Any]:
    """Give a trained model the density of its training rows, and say how much of others it takes.

    See `fit_density_of`.
    """
    found = {
        name: described(model, corpus, spread(corpus.measured, FIT_ROWS))
        for name, corpus in held_out.items()
    }
    rows = described(model, train, spread(train.measured, FIT_ROWS))
    return fit_density_of(model, rows, found)


def fit_density_of(model: PAST, rows: Tensor, held_out: dict[str, Tensor]) -> dict[str, Any]:
    """Give a trained model the density of its training rows (n, inputs).

    The threshold is the `QUANTILE` of the validation patients' rows, for rows that the density was
    fitted to lie nearer than others; without a validation part it is that of the training rows.

    Returns:
        threshold, quantile, decline_above, threshold_from, and the share of rows beyond the
        threshold for each held-out part (``validation_share``, ``test_share``).
    """
    density = Density.fit(rows)
    part = "validation" if "validation" in held_out else "training"
    distances = {name: density.distance(of) for name, of in held_out.items()}
    basis = distances.get("validation")
    if basis is None:
        basis = density.distance(rows)
    threshold = float(np.quantile(basis.cpu().numpy(), QUANTILE))
    density.threshold.fill_(threshold)
    model.density = density
    shares = {
        f"{name}_share": float((found > density.threshold).double().mean())
        for name, found in distances.items()
    }
    return {
        "threshold": threshold,
        "quantile": QUANTILE,
        "decline_above": DECLINE_ABOVE,
        "threshold_from": part,
        "validation_share": None,
        **shares,
    }
