"""What a model must beat: ridge on colour and texture, and on the frozen encoder's features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ml.evaluation.ridge import Ridge, Solver, Sums, choose_penalty
from ml.models.past import PAST
from ml.training.corpus import CHUNK, Corpus
from ml.training.start import feature_sums, groups_of_slides

COMPONENTS = (16, 32, 128, None)


@dataclass(frozen=True)
class Baseline:
    """A ridge on some columns of the image features.

    Attributes:
        columns: inputs, columns of the standardised features.
        ridge: the solution.
        penalty: chosen by leaving out training slides.
        components: principal components of the inputs; None for all.
    """

    columns: NDArray[np.int64]
    ridge: Ridge
    penalty: float
    components: int | None

    def predict(self, model: PAST, corpus: Corpus) -> NDArray[np.float32]:
        """Predicted expression (measured rows, genes)."""
        found = []
        for rows in corpus.chunks(CHUNK):
            values = torch.from_numpy(corpus.raw(rows)).to(model.feature_mean.device)
            inputs = model.standardise(values).cpu().numpy()[:, self.columns]
            found.append(self.ridge.predict(inputs).astype(np.float32))
        return np.concatenate(found)


def colour_columns(model: PAST) -> NDArray[np.int64]:
    """Stain and texture of the row itself: the cell's 28 µm, or the spot."""
    features = model.config.features
    assert features is not None
    return features.columns("stain", model.config.spot_diameter_um or 28.0)


def encoder_columns(model: PAST) -> NDArray[np.int64]:
    """Everything that the frozen encoder sees, over all windows."""
    features = model.config.features
    assert features is not None
    names = {name for _, name, *_ in features.blocks} - {"stain"}
    return np.sort(np.concatenate([features.columns(name) for name in sorted(names)]))


def fit_baselines(model: PAST, train: Corpus) -> dict[str, Baseline]:
    """Colour ridge and frozen-encoder ridge, fitted on the training part alone.

    The number of components and the penalty are chosen like everything else: on training slides
    that are left out in turn.
    """
    targets = train.all_expression()
    parts = [feature_sums(model, train, g, targets) for g in groups_of_slides(train)]
    colour, encoder = colour_columns(model), encoder_columns(model)
    return {
        "colour_ridge": _fit(parts, colour, (None,)),
        "frozen_ridge": _fit(parts, encoder, COMPONENTS),
    }


def _fit(
    parts: list[Sums], columns: NDArray[np.int64], choices: tuple[int | None, ...]
) -> Baseline:
    chosen = [part.columns(columns) for part in parts]
    total = sum(chosen[1:], chosen[0])
    fitting = [c for c in choices if c is None or c < min(len(columns), total.rows)]
    best: tuple[float, int | None, float] | None = None
    for components in fitting:
        penalty, reached = choose_penalty(chosen, components=components)
        if best is None or reached > best[2]:
            best = (penalty, components, reached)
    assert best is not None
    penalty, components, _ = best
    return Baseline(columns, Solver(total, components).ridge(penalty), penalty, components)
