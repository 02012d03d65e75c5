"""The mean, and ridges on colour, on nuclear morphology, and on the frozen encoder's features."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ml.evaluation.appearance import appearance
from ml.evaluation.ridge import Solver, Sums, choose
from ml.evaluation.subject import Floats32, Predictor, Subject
from ml.models.past import PAST
from ml.training.corpus import CHUNK, Corpus, Rows
from ml.training.start import FeatureSums, groups_of_slides

COMPONENTS = (16, 32, 128, None)


def mean_of_training(train: Corpus) -> Predictor:
    """The training part's mean of each gene, for every row: it tells no order."""
    mean, _ = train.expression_moments()

    def predict(corpus: Corpus) -> Floats32:
        return np.broadcast_to(mean, (len(corpus.measured), len(mean)))

    return Predictor("mean", "mean of the training part", predict)


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


def colour_ridge(model: PAST, train: Corpus) -> Predictor:
    """Ridge on the row's own colour, stain and texture."""
    return _on_features(
        "colour_ridge", "ridge on stain and texture", model, train, colour_columns(model), (None,)
    )


def frozen_ridge(model: PAST, train: Corpus) -> Predictor:
    """Ridge on (principal components of) the frozen encoder's features."""
    columns = encoder_columns(model)
    return _on_features(
        "frozen_ridge", "ridge on the frozen encoder", model, train, columns, COMPONENTS
    )


def _on_features(
    name: str,
    title: str,
    model: PAST,
    train: Corpus,
    columns: NDArray[np.int64],
    components: tuple[int | None, ...],
) -> Predictor:
    """The number of components and the penalty are chosen on training slides left out in turn."""
    sums = FeatureSums(model, train, columns, train.all_expression())
    total = sums.total
    possible = [c for c in components if c is None or c < len(total.x)]
    best = choose(sums.parts, components=possible)
    ridge = sums.unrotated(Solver(total).ridge(best.penalty, best.components))

    def predict(corpus: Corpus) -> Floats32:
        found = []
        for rows in corpus.chunks(CHUNK):
            values = torch.from_numpy(corpus.raw(rows)).to(model.feature_mean.device)
            inputs = model.standardise(values).cpu().numpy()[:, columns]
            found.append(ridge.predict(inputs).astype(np.float32))
        return np.concatenate(found)

    chosen = {"penalty": best.penalty, "components": best.components, "inputs": len(columns)}
    return Predictor(name, title, predict, facts=chosen)


def morphology_ridge(subject: Subject) -> Predictor:
    """Ridge on stain, texture and the shape of the nucleus, see `ml.evaluation.appearance`."""
    train = subject.train
    inputs = appearance(subject, train)
    mean, scale = inputs.mean(0), inputs.std(0)
    scale[scale < 1e-6] = 1.0

    def standardised(values: Floats32) -> Floats32:
        scaled: Floats32 = (values - mean) / scale
        return scaled

    sums = sums_of_groups(train, standardised(inputs), train.all_expression())
    best = choose(sums)
    ridge = Solver(sum(sums[1:], sums[0])).ridge(best.penalty)

    def predict(corpus: Corpus) -> Floats32:
        return ridge.predict(standardised(appearance(subject, corpus))).astype(np.float32)

    return Predictor(
        "morphology_ridge", "ridge on stain, texture and nuclear morphology", predict,
        facts={"penalty": best.penalty, "inputs": inputs.shape[1]},
    )  # fmt: skip


def sums_of_groups(train: Corpus, inputs: Floats32, targets: Floats32) -> list[Sums]:
    """Sums over the groups of training slides that are left out in turn."""
    section = train.section[train.measured]
    found = []
    for group in groups_of_slides(train):
        rows = np.flatnonzero(np.isin(section, group))
        if len(rows):
            found.append(Sums.over((inputs[b], targets[b]) for b in _blocks(rows)))
    return found


def _blocks(rows: Rows, size: int = 8192) -> list[Rows]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
