"""What a model must beat: ridge on colour and texture, and on the frozen encoder's features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ml.evaluation.ridge import Ridge, Solver, choose
from ml.models.past import PAST
from ml.training.corpus import CHUNK, Corpus
from ml.training.start import FeatureSums

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
    return {
        "colour_ridge": _fit(model, train, colour_columns(model), targets, (None,)),
        "frozen_ridge": _fit(model, train, encoder_columns(model), targets, COMPONENTS),
    }


def _fit(
    model: PAST,
    train: Corpus,
    columns: NDArray[np.int64],
    targets: NDArray[np.float32],
    components: tuple[int | None, ...],
) -> Baseline:
    sums = FeatureSums(model, train, columns, targets)
    total = sums.total
    possible = [c for c in components if c is None or c < len(total.x)]
    best = choose(sums.parts, components=possible)
    ridge = sums.unrotated(Solver(total).ridge(best.penalty, best.components))
    return Baseline(columns, ridge, best.penalty, best.components)
