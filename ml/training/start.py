"""Where a member starts from: fixed programmes, and a ridge from image features to them.

Training then only has to improve on the linear model, which few rows already determine well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.evaluation.retrieval import image_embeddings
from ml.evaluation.ridge import PENALTIES, Ridge, Solver, Sums, minus, scores
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
    signed: NDArray[np.float32] = (loadings * sign[:, None]).astype(np.float32)
    return signed


def groups_of_slides(corpus: Corpus, folds: int = 5) -> list[list[int]]:
    """Sections grouped for leaving out: patients whole where there are several, else slides."""
    patients = [s.patient for s in corpus.sections]
    units = patients if len(set(patients)) > 1 else [s.code for s in corpus.sections]
    names = sorted(set(units))
    dealt: list[list[int]] = [[] for _ in range(min(folds, len(names)))]
    for i, name in enumerate(names):
        dealt[i % len(dealt)].extend(j for j, unit in enumerate(units) if unit == name)
    return dealt


class FeatureSums:
    """Sums for ridges on standardised image features, for each group of training sections.

    With fewer rows than inputs, inputs are rotated onto the space that the rows span: a ridge there
    is the same ridge, and its decomposition is as small as the number of rows.

    Args:
        model: standardises the features.
        train: the training part.
        columns: inputs to use; None for all.
        targets: (measured rows, outputs).
    """

    def __init__(
        self,
        model: PAST,
        train: Corpus,
        columns: NDArray[np.int64] | None,
        targets: NDArray[np.float32],
    ) -> None:
        self._model, self._train = model, train
        self._columns = slice(None) if columns is None else columns
        self.rotation: Floats | None = None
        rows = train.measured
        width = len(self.inputs(rows[:1])[0])
        if len(rows) < width:
            values = self.inputs(rows).astype(np.float64)
            self.rotation = np.linalg.svd(values, full_matrices=False)[2].T
        self.parts = [self._sums(group, targets) for group in groups_of_slides(train)]

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Standardised features (k, inputs) of some rows."""
        values = torch.from_numpy(self._train.raw(rows)).to(self._model.feature_mean.device)
        return self._model.standardise(values).cpu().numpy()[:, self._columns]

    def _sums(self, sections: list[int], targets: NDArray[np.float32]) -> Sums:
        chosen = np.flatnonzero(np.isin(self._train.section[self._train.measured], sections))

        def blocks() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
            for at in np.array_split(chosen, max(len(chosen) // 2048, 1)):
                inputs: NDArray[Any] = self.inputs(self._train.measured[at])
                if self.rotation is not None:
                    inputs = inputs @ self.rotation
                yield inputs, targets[at]

        return Sums.over(blocks())

    @property
    def total(self) -> Sums:
        """Sums over the whole training part."""
        return sum(self.parts[1:], self.parts[0])

    def unrotated(self, ridge: Ridge) -> Ridge:
        """The same ridge on the inputs themselves."""
        if self.rotation is None:
            return ridge
        return Ridge(self.rotation @ ridge.weights, ridge.intercept)


def ridge_to_programmes(
    model: PAST, train: Corpus, loadings: NDArray[np.float32], penalty: float | None = None
) -> tuple[Ridge, float]:
    """Ridge from standardised features to programme scores, and its penalty.

    Without a given penalty, the one that is best for the genes on slides left out in turn.
    """
    mean, scale = train.expression_moments()
    values = (train.all_expression() - mean) / scale
    programmes = loadings.T.astype(np.float64)
    sums = FeatureSums(model, train, None, values)
    if penalty is None:
        penalty = _penalty(sums.parts, programmes)
    total = sums.total
    to_programmes = replace(total, y=total.y @ programmes, xy=total.xy @ programmes)
    return sums.unrotated(Solver(to_programmes).ridge(penalty)), penalty


@torch.no_grad()
def read_out(model: PAST, train: Corpus, loadings: NDArray[np.float32]) -> None:
    """Give members that were trained without expression a ridge from their embeddings to it.

    Embeddings are standardised for the ridge, and its penalty is chosen by leaving slides out.
    """
    mean, scale = train.expression_moments()
    targets = (train.all_expression() - mean) / scale
    programmes = loadings.T.astype(np.float64)
    for member in model.networks():
        embeddings = image_embeddings(model, member.eval(), train).cpu().double().numpy()
        centre, deviation = embeddings.mean(0), embeddings.std(0) + 1e-6
        inputs = (embeddings - centre) / deviation
        section = train.section[train.measured]
        of_groups = [np.isin(section, group) for group in groups_of_slides(train)]
        parts = [Sums.over([(inputs[rows], targets[rows])]) for rows in of_groups]
        total = sum(parts[1:], parts[0])
        to_programmes = replace(total, y=total.y @ programmes, xy=total.xy @ programmes)
        ridge = Solver(to_programmes).ridge(_penalty(parts, programmes))
        weights = ridge.weights / deviation[:, None]
        layer = member.expression_head.programmes
        layer.weight.copy_(torch.from_numpy(weights.T.astype(np.float32)))
        layer.bias.copy_(torch.from_numpy((ridge.intercept - centre @ weights).astype(np.float32)))


def left_out_pcc(model: PAST, train: Corpus, ranks: tuple[int, ...]) -> dict[int, float]:
    """Median Pearson of linear starts of several ranks on training slides left out in turn.

    Each rank has the penalty that is best for it.
    """
    loadings = principal_programmes(train, max(ranks)).astype(np.float64)
    mean, scale = train.expression_moments()
    sums = FeatureSums(model, train, None, (train.all_expression() - mean) / scale)
    reached = _reached(sums.parts, [loadings[:rank].T for rank in ranks])
    return dict(zip(ranks, reached.max(1).tolist(), strict=True))


def _penalty(parts: list[Sums], programmes: Floats) -> float:
    """The penalty whose low-rank predictions correlate best with the genes."""
    if len(parts) < 2:
        return PENALTIES[len(PENALTIES) // 2]
    return PENALTIES[int(np.argmax(_reached(parts, [programmes])[0]))]


def _reached(parts: list[Sums], programmes: list[Floats]) -> Floats:
    """Median Pearson over genes on parts left out in turn: (sets of programmes, penalties)."""
    total = sum(parts[1:], parts[0])
    reached = np.zeros((len(programmes), len(PENALTIES)))
    for part in parts:
        solver = Solver(minus(total, part))
        for i, penalty in enumerate(PENALTIES):
            ridge = solver.ridge(penalty)
            for j, some in enumerate(programmes):
                low_rank = Ridge(ridge.weights @ some @ some.T, ridge.intercept)
                reached[j, i] += float(np.median(scores(low_rank, part)))
    return reached / len(parts)


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
