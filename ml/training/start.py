"""Where a member starts from: fixed programmes, and a ridge from image features to them.

Training then only has to improve on the linear model, which few rows already determine well.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ml.evaluation.ridge import PENALTIES, Ridge, Sums, fit_ridge
from ml.models.heads import FeatureHead
from ml.models.past import PAST, Member
from ml.training.corpus import Corpus

Floats = NDArray[np.float64]


def principal_programmes(train: Corpus, rank: int) -> NDArray[np.float32]:
    """Principal components of the training part's standardised expression.

    Returns:
        (rank, genes) orthonormal rows, strongest first, each with its largest loading positive.
    """
    mean, scale = train.expression_moments()
    genes = len(mean)
    covariance = np.zeros((genes, genes))
    for rows in train.chunks():
        values = ((train.expression(rows) - mean) / scale).astype(np.float64)
        covariance += values.T @ values
    _, vectors = np.linalg.eigh(covariance)
    loadings = vectors[:, ::-1][:, :rank].T
    sign = np.sign(loadings[np.arange(len(loadings)), np.abs(loadings).argmax(1)])
    return (loadings * sign[:, None]).astype(np.float32)


def groups_of_slides(corpus: Corpus, folds: int = 5) -> list[list[int]]:
    """Sections grouped for leaving out: patients whole where there are several, else slides."""
    patients = [s.patient for s in corpus.sections]
    units = patients if len(set(patients)) > 1 else [s.code for s in corpus.sections]
    names = sorted(set(units))
    dealt: list[list[int]] = [[] for _ in range(min(folds, len(names)))]
    for i, name in enumerate(names):
        dealt[i % len(dealt)].extend(j for j, unit in enumerate(units) if unit == name)
    return dealt


def feature_sums(
    model: PAST, corpus: Corpus, sections: list[int], targets: NDArray[np.float32]
) -> Sums:
    """Sums over the measured rows of some sections.

    Args:
        targets: (measured rows, outputs) what the ridge is to predict.
    """

    def blocks() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        chosen = np.flatnonzero(np.isin(corpus.section[corpus.measured], sections))
        for at in np.array_split(chosen, max(len(chosen) // 2048, 1)):
            values = torch.from_numpy(corpus.raw(corpus.measured[at]))
            yield model.standardise(values.to(model.feature_mean.device)).cpu().numpy(), targets[at]

    return Sums.over(blocks())


def ridge_to_programmes(
    model: PAST, train: Corpus, loadings: NDArray[np.float32], penalty: float | None = None
) -> tuple[Ridge, float]:
    """Ridge from standardised features to programme scores, and its penalty.

    Without a given penalty, the one that is best on slides left out in turn.
    """
    mean, scale = train.expression_moments()
    scores = ((train.all_expression() - mean) / scale) @ loadings.T
    parts = [feature_sums(model, train, g, scores) for g in groups_of_slides(train)]
    return fit_ridge(parts, penalties=PENALTIES if penalty is None else (penalty,))


def set_start(
    member: Member, train: Corpus, loadings: NDArray[np.float32], ridge: Ridge | None
) -> None:
    """Give a new member its programmes and, for feature heads, the ridge as its linear path."""
    mean, scale = train.expression_moments()
    head = member.expression_head
    with torch.no_grad():
        head.mean.copy_(torch.from_numpy(mean))
        head.scale.copy_(torch.from_numpy(scale))
        head.loadings.copy_(torch.from_numpy(loadings))
        if ridge is None or not isinstance(member.image_encoder, FeatureHead):
            return
        rank = len(loadings)
        linear = member.image_encoder.linear
        weights = torch.from_numpy(ridge.weights.T.astype(np.float32))
        linear.weight[:rank].copy_(weights)
        linear.bias[:rank].copy_(torch.from_numpy(ridge.intercept.astype(np.float32)))
        head.programmes.weight.zero_()
        head.programmes.bias.zero_()
        head.programmes.weight[:, :rank].copy_(torch.eye(rank))
