"""How far a row's image lies from those a model was trained on, and when a slide is declined.

Principal components of the training rows' inputs, and how much of a row they leave out (the
logarithm of the residual's length), are taken as one Gaussian; a row's score is its squared
Mahalanobis distance (Lee et al., arXiv 1807.03888; distance in the components together with the
residual is Hotelling's T² with Jackson and Mudholkar's Q, Technometrics 1979;21:341). The
covariance is shrunk after Ledoit and Wolf (J Multivariate Anal 2004;88:365), and the fit is
repeated without the furthest hundredth of the rows, so that artefacts among them do not widen it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

COMPONENTS = 32
QUANTILE = 0.99
# A slide of which a larger share of rows than this lies beyond the threshold is declined.
DECLINE_ABOVE = 0.5
# Rows of a slide that its share is taken over at most, evenly spread over the slide's rows.
SHARE_ROWS = 20_000
_SMALLEST = 1e-6


class Density(nn.Module):
    """A fitted density with its threshold.

    Buffers: ``centre`` (inputs,), ``axes`` (components, inputs) orthonormal rows, ``mean``
    (components + 1,) and ``whitening`` (components + 1, components + 1) of the components and the
    residual, ``threshold`` () the squared distance beyond which a row is unlike the training rows.
    """

    centre: Tensor
    axes: Tensor
    mean: Tensor
    whitening: Tensor
    threshold: Tensor

    def __init__(self, inputs: int, components: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("axes", torch.zeros(components, inputs))
        self.register_buffer("mean", torch.zeros(components + 1))
        self.register_buffer("whitening", torch.eye(components + 1))
        self.register_buffer("threshold", torch.tensor(float("inf")))

    @classmethod
    def like(cls, tensors: dict[str, Tensor]) -> Density:
        """An empty density of the shape that these saved buffers have."""
        components, inputs = tensors["axes"].shape
        return cls(inputs, components)

    @classmethod
    def fit(cls, rows: Tensor, components: int = COMPONENTS) -> Density:
        """Fit to training rows (n, inputs); the threshold is still to be set."""
        values = rows.double()
        found = _fitted(values, components)
        distance = found.distance(rows)
        kept = distance <= torch.quantile(distance.double(), QUANTILE)
        return _fitted(values[kept], components)

    def distance(self, rows: Tensor) -> Tensor:
        """Squared Mahalanobis distances (n,) float32 of rows (n, inputs)."""
        seen = coordinates(rows.float() - self.centre, self.axes)
        return ((seen - self.mean) @ self.whitening).square().sum(1)

    def beyond(self, rows: Tensor) -> Tensor:
        """Which rows (n, inputs) lie beyond the threshold: (n,) bool."""
        return self.distance(rows) > self.threshold


def _fitted(values: Tensor, components: int) -> Density:
    centre = values.mean(0)
    about = values - centre
    vectors = torch.linalg.eigh(about.T @ about / len(about))[1]
    # At least one direction is left for the residual.
    axes = vectors.flip(1)[:, : min(components, values.shape[1] - 1)].T
    found = Density(values.shape[1], len(axes))
    seen = coordinates(about, axes)
    mean = seen.mean(0)
    power, directions = torch.linalg.eigh(shrunk_covariance(seen - mean))
    whitening = directions / power.clamp_min(_SMALLEST).sqrt()
    for name, value in (("centre", centre), ("axes", axes), ("mean", mean)):
        getattr(found, name).copy_(value)
    found.whitening.copy_(whitening)
    return found.to(values.device)


def coordinates(about: Tensor, axes: Tensor) -> Tensor:
    """Components and the log length of what they leave out: (n, inputs) → (n, components + 1)."""
    along = about @ axes.T
    left = (about.square().sum(1) - along.square().sum(1)).clamp_min(_SMALLEST)
    return torch.cat([along, 0.5 * left.log()[:, None]], dim=1)


def shrunk_covariance(about: Tensor) -> Tensor:
    """Ledoit and Wolf's covariance of centred rows: drawn towards a multiple of the identity.

    Coordinates are scaled to unit variance first, so that what is shrunk is their correlation.

    Args:
        about: (n, p) float64, of mean 0.

    Returns:
        (p, p).
    """
    n, p = about.shape
    scale = about.square().mean(0).sqrt().clamp_min(_SMALLEST)
    unit = about / scale
    sample = unit.T @ unit / n
    identity = torch.eye(p, dtype=about.dtype, device=about.device)
    level = sample.diagonal().mean()
    apart = (sample - level * identity).square().sum() / p
    # Mean over rows of the squared distance of x xᵀ from the sample covariance.
    noise = (unit.square().sum(1).square().mean() - sample.square().sum()) / (n * p)
    share = (noise / apart.clamp_min(1e-12)).clamp(0.0, 1.0)
    shrunk = share * level * identity + (1 - share) * sample
    out: Tensor = shrunk * scale[:, None] * scale[None, :]
    return out
