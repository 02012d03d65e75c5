"""Rows to train and to evaluate on: image inputs, neighbours and counts of some sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import cKDTree
from torch import Tensor

from ml.inference.crops import CropSource
from ml.inference.memory import give_back
from ml.models.batches import CellBatch, CropBatch, EmbeddedBatch, FeatureBatch, ImageBatch
from ml.models.config import ModelConfig
from ml.models.past import PAST
from ml.tokens.rank import rank_tokens
from ml.tokens.vocabulary import PAD

Rows = NDArray[np.int64]
Moments = tuple[NDArray[np.float32], NDArray[np.float32]]
CHUNK = 4096
# Rows whose crops are in memory at a time.
CROPS = 64


@dataclass(frozen=True)
class Section:
    """One measured section with its image inputs.

    Attributes:
        code: slide code.
        patient: patient code.
        part: ``train``, ``validation`` or ``test``.
        xy_um: (n, 2) positions in µm.
        counts: (n, genes) raw counts of the panel.
        totals: (n,) counts that a row is scaled by.
        images: (n, inputs) float16 features, or crops that are read when they are needed.
    """

    code: str
    patient: str
    part: str
    xy_um: NDArray[np.float64]
    counts: csr_matrix
    totals: NDArray[np.float64]
    images: NDArray[np.float16] | CropSource


def nearest(
    xy_um: NDArray[np.float64], count: int, radius_um: float
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Nearest other rows: indices (n, count), −1 where there is none, and distances in µm."""
    n = len(xy_um)
    index = np.full((n, count), -1, np.int32)
    distance = np.zeros((n, count), np.float32)
    if n < 2 or count == 0:
        return index, distance
    k = min(count, n - 1)
    found, near = cKDTree(xy_um).query(xy_um, k=k + 1, distance_upper_bound=radius_um)
    # The row itself is among its nearest; where rows coincide it need not be the first.
    own = near == np.arange(n)[:, None]
    own[~own.any(1), -1] = True
    near, found = near[~own].reshape(n, k), found[~own].reshape(n, k)
    absent = near >= n
    index[:, :k] = np.where(absent, -1, near)
    distance[:, :k] = np.where(absent, 0.0, found)
    return index, distance


def feature_moments(
    images: list[NDArray[np.float16]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation of each feature over all rows of some sections, read in chunks."""
    inputs = images[0].shape[1]
    count, total, square = 0, np.zeros(inputs), np.zeros(inputs)
    for block in images:
        for start in range(0, len(block), CHUNK):
            values = np.asarray(block[start : start + CHUNK], np.float64)
            count += len(values)
            total += values.sum(0)
            square += (values * values).sum(0)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(square / max(count, 1) - mean * mean, 0))
    # A feature that does not vary carries nothing; dividing by 1 keeps it at zero.
    deviation[deviation < 1e-4] = 1.0
    return mean.astype(np.float32), deviation.astype(np.float32)


class ImageSource:
    """Image inputs of sections, gathered by row over all of them.

    Args:
        images: features or crops of each section.
        xy_um: positions of each section.
        config: says how many neighbours, and how features are standardised.
        moments: mean and deviation of each section's features, of sections that are cut-outs; by
            default those of the rows, where the config has features standardised by slide.

    Attributes:
        chunk: rows that are worked on at a time where no gradients are needed.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.float16] | CropSource],
        xy_um: list[NDArray[np.float64]],
        config: ModelConfig,
        moments: list[Moments] | None = None,
    ) -> None:
        self._images = images
        self._config = config
        self.chunk = CHUNK if config.features is not None else CROPS
        sizes = [len(block) for block in images]
        self.offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.section = np.repeat(np.arange(len(images)), sizes)
        count = config.architecture.neighbours
        near = [nearest(xy, count, config.architecture.radius_um) for xy in xy_um]
        self._near = np.concatenate(
            [np.where(i < 0, -1, i + at) for (i, _), at in zip(near, self.offsets, strict=False)]
        ).astype(np.int64)
        self._distance = np.concatenate([d for _, d in near])
        self.moments = moments
        if moments is None and config.per_slide and config.features:
            self.moments = [feature_moments([cast(NDArray[np.float16], b)]) for b in images]

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def give_back(self) -> None:
        """Takes what was read of mapped features out of this process's memory."""
        for block in self._images:
            if not isinstance(block, CropSource):
                give_back(block)

    def near(self, rows: Rows) -> Rows:
        """Neighbours (k, neighbours) of some rows, −1 where there is none."""
        return self._near[rows]

    def raw(self, rows: Rows) -> NDArray[np.float32]:
        """Features of some rows as they are stored (standardised per slide where configured)."""
        features = cast("Sequence[NDArray[np.float16]]", self._images)
        out = np.empty((len(rows), features[0].shape[1]), np.float32)
        section = self.section[rows]
        for number in np.unique(section):
            here = section == number
            values = np.asarray(features[number][rows[here] - self.offsets[number]], np.float32)
            if self.moments is not None:
                mean, deviation = self.moments[number]
                values = (values - mean) / deviation
            out[here] = values
        return out

    def alone(self, rows: Rows, model: PAST) -> Tensor | CropBatch:
        """Standardised features of some rows without their neighbours, or their crops."""
        device = model.feature_mean.device
        if self._config.features is not None:
            return model.standardise(torch.from_numpy(self.raw(rows)).to(device))
        crops = self._crops(rows)
        return CropBatch(*(pixels.to(device, non_blocking=True) for pixels in crops))

    def _crops(self, rows: Rows) -> CropBatch:
        """Crops of some rows, read section by section."""
        section = self.section[rows]
        order = np.argsort(section, kind="stable")
        read = [
            cast(CropSource, self._images[i]).read(rows[section == i] - self.offsets[i])
            for i in np.unique(section).tolist()
        ]
        if len(read) == 1:
            return read[0]
        back = torch.from_numpy(np.argsort(order))
        return CropBatch(*(torch.cat(parts)[back] for parts in zip(*read, strict=True)))

    def images(self, rows: Rows, model: PAST) -> ImageBatch:
        """Image inputs of some rows, on the model's device."""
        device = model.feature_mean.device
        if self._config.features is None:
            return cast(CropBatch, self.alone(rows, model))
        near = self._near[rows]
        absent = torch.from_numpy(near < 0).to(device)
        distance = torch.from_numpy(self._distance[rows]).to(device)
        # Neighbours repeat within a batch of rows: each is read once.
        wanted, place = np.unique(np.concatenate([rows[:, None], near], 1), return_inverse=True)
        values = cast(Tensor, self.alone(np.maximum(wanted, 0), model))
        place = place.reshape(len(rows), -1)
        return FeatureBatch(
            values[torch.from_numpy(place[:, 0]).to(device)],
            values[torch.from_numpy(place[:, 1:]).to(device)],
            distance,
            absent,
        )

    def embeddings_of(self, batch: ImageBatch, model: PAST) -> list[Tensor]:
        """Image embeddings (k, dim) of each member, of what `images` gave."""
        return model.embed([batch] * len(model.members))

    def expression_of(self, rows: Rows, model: PAST) -> Tensor:
        """Predicted expression (k, genes) on the model's device."""
        return model.expression(self.embeddings_of(self.images(rows, model), model))


class EmbeddedRows(ImageSource):
    """Rows of one slide whose image embeddings were computed before.

    Args:
        embeddings: (n, members × dim) float32, those of each member beside each other.
    """

    def __init__(self, embeddings: NDArray[np.float32], config: ModelConfig) -> None:
        self._embeddings, self._dim = embeddings, config.architecture.dim
        self.chunk = CHUNK

    def __len__(self) -> int:
        return len(self._embeddings)

    def give_back(self) -> None:
        """Takes what was read of mapped embeddings out of this process's memory."""
        give_back(self._embeddings)

    def alone(self, rows: Rows, model: PAST) -> Tensor:
        """The first member's embeddings (k, dim)."""
        return self._of(rows, model)[:, : self._dim]

    def images(self, rows: Rows, model: PAST) -> EmbeddedBatch:
        """All members' embeddings (k, members × dim)."""
        return EmbeddedBatch(self._of(rows, model))

    def embeddings_of(self, batch: ImageBatch, model: PAST) -> list[Tensor]:
        """What was read, member by member."""
        assert isinstance(batch, EmbeddedBatch)
        return list(torch.split(batch.embeddings, self._dim, dim=1))

    def _of(self, rows: Rows, model: PAST) -> Tensor:
        values = np.asarray(self._embeddings[rows], np.float32)
        return torch.from_numpy(values).to(model.feature_mean.device)


class Corpus(ImageSource):
    """Sections as one sequence of rows with image inputs and measured expression."""

    def __init__(self, sections: list[Section], config: ModelConfig) -> None:
        super().__init__([s.images for s in sections], [s.xy_um for s in sections], config)
        self.sections = sections
        self.counts = csr_matrix(vstack([s.counts for s in sections]))
        self.totals = np.concatenate([s.totals for s in sections])
        self.xy_um = np.concatenate([s.xy_um for s in sections])
        # Rows without counts are seen as neighbours, but say nothing about expression.
        self.measured: Rows = np.flatnonzero(self.totals > 0)
        self.tokens = rank_tokens(self.counts, config.vocabulary, config.architecture.context)

    def expression(self, rows: Rows) -> NDArray[np.float32]:
        """log1p counts per 10,000 of some rows (k, genes)."""
        counts = self.counts[rows].toarray().astype(np.float64)
        scaled = counts * (1e4 / np.maximum(self.totals[rows], 1.0))[:, None]
        values: NDArray[np.float32] = np.log1p(scaled).astype(np.float32)
        return values

    def expression_moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and deviation of each gene's expression over the measured rows."""
        total = square = np.zeros(self.counts.shape[1])
        for rows in self.chunks():
            values = self.expression(rows).astype(np.float64)
            total, square = total + values.sum(0), square + (values * values).sum(0)
        count = max(len(self.measured), 1)
        mean = total / count
        deviation = np.sqrt(np.maximum(square / count - mean * mean, 0))
        deviation[deviation < 1e-4] = 1.0
        return mean.astype(np.float32), deviation.astype(np.float32)

    def feature_moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and deviation of each image feature over all rows."""
        return feature_moments([cast(NDArray[np.float16], s.images) for s in self.sections])

    def cells(self, rows: Rows, device: torch.device, neighbours: bool = True) -> CellBatch:
        """What is measured of some rows, and of their neighbours where these are asked for."""
        near = self._near[rows] if neighbours else self._near[rows, :0]
        tokens = self._tokens_of(np.concatenate([rows, near.ravel()]))

        def there(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values).to(device)

        return CellBatch(
            tokens=there(tokens[: len(rows)]),
            neighbour_tokens=there(tokens[len(rows) :].reshape(*near.shape, tokens.shape[1])),
            distance_um=there(self._distance[rows, : near.shape[1]]),
            absent=there(near < 0),
            counts=there(self.counts[rows].toarray().astype(np.float32)),
            totals=there(self.totals[rows].astype(np.float32)),
            measured=None,
            xy_um=there(self.xy_um[rows].astype(np.float32)),
            slide=there(self.section[rows]),
        )

    def where(self, rows: Rows) -> dict[str, list[int]]:
        """The same rows by slide code and row of its table."""
        section = self.section[rows]
        return {
            self.sections[i].code: (rows[section == i] - self.offsets[i]).tolist()
            for i in np.unique(section).tolist()
        }

    def _tokens_of(self, rows: Rows) -> NDArray[Any]:
        """Tokens of some rows, padding alone for row −1."""
        tokens = self.tokens[np.maximum(rows, 0)]
        tokens[rows < 0] = PAD
        return tokens

    def chunks(self, size: int | None = None) -> Iterator[Rows]:
        """The measured rows in order, in chunks."""
        size = size or self.chunk
        for start in range(0, len(self.measured), size):
            yield self.measured[start : start + size]

    def all_expression(self) -> NDArray[np.float32]:
        """Measured expression (measured rows, genes)."""
        return np.concatenate([self.expression(rows) for rows in self.chunks()])

    def predict(self, model: PAST) -> NDArray[np.float32]:
        """Predicted expression (measured rows, genes); the model must be in eval mode."""
        return np.concatenate([predict_rows(model, self, rows) for rows in self.chunks()])


def predict_rows(model: PAST, source: ImageSource, rows: Rows) -> NDArray[np.float32]:
    """Predicted expression (k, genes) of some rows; the model must be in eval mode."""
    parts = [rows[i : i + source.chunk] for i in range(0, max(len(rows), 1), source.chunk)]
    return torch.cat([source.expression_of(part, model) for part in parts]).cpu().numpy()
