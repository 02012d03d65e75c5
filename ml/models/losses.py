"""Losses of the improved mode."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Below this many log1p counts per 10,000 a predicted mean bends towards 0 instead of crossing it.
_BEND = 0.1


def info_nce(
    image: Tensor,
    cell: Tensor,
    temperature: Tensor,
    near: Tensor,
    *,
    every_image: Tensor | None = None,
    every_cell: Tensor | None = None,
    first: int = 0,
    soft_targets: bool = False,
) -> Tensor:
    """Symmetric InfoNCE (Radford et al., arXiv 2103.00020) of n rows against all N of a step.

    Args:
        image, cell: (n, dim) L2-normalised embeddings; row i of both belongs together.
        temperature: scalar.
        near: (n, N) True where j is so close to i that it is no negative for it: neighbours whose
            windows overlap look nearly the same. A row's own place is ignored.
        every_image, every_cell: (N, dim) those of all rows, of which these are rows `first` to
            `first` + n; the rows themselves where not given.
        soft_targets: targets are the softmax of the mean of both similarities within a modality, as
            in the authors' code, here without gradient; for comparison.

    Returns:
        scalar, the mean over the n rows.
    """
    every_image = image if every_image is None else every_image
    every_cell = cell if every_cell is None else every_cell
    # In float32 whatever the networks ran in: logits are up to 100, and their differences count.
    to_cell = image.float() @ every_cell.float().T / temperature
    to_image = cell.float() @ every_image.float().T / temperature
    n, total = to_cell.shape
    target = torch.arange(first, first + n, device=image.device)
    own = torch.arange(total, device=image.device)[None, :] == target[:, None]
    hidden = near & ~own
    wanted = target
    if soft_targets:
        with torch.no_grad():
            alike = image.float() @ every_image.float().T + cell.float() @ every_cell.float().T
            alike = (alike / (2 * temperature)).masked_fill(hidden, float("-inf"))
            wanted = alike.softmax(1)
        # 0 × −∞ is no number: what is hidden has no weight and needs no logit.
        lowest = torch.finfo(to_cell.dtype).min
        both = [logits.masked_fill(hidden, lowest) for logits in (to_cell, to_image)]
    else:
        both = [logits.masked_fill(hidden, float("-inf")) for logits in (to_cell, to_image)]
    return sum((functional.cross_entropy(logits, wanted) for logits in both), 0 * temperature) / 2


def near_pairs(
    xy_um: Tensor,
    slide: Tensor,
    radius_um: float,
    every_xy: Tensor | None = None,
    every_slide: Tensor | None = None,
) -> Tensor:
    """Pairs of rows of one slide that lie within a radius.

    Args:
        xy_um, slide: (n, 2) and (n,).
        every_xy, every_slide: (N, 2) and (N,) of all rows; the rows themselves where not given.

    Returns:
        (n, N) bool.
    """
    every_xy = xy_um if every_xy is None else every_xy
    every_slide = slide if every_slide is None else every_slide
    # Without the matrix product that torch takes for large inputs: on slides of 10⁵ µm its rounding
    # errors are as large as the radius.
    apart = torch.cdist(xy_um, every_xy, compute_mode="donot_use_mm_for_euclid_dist")
    return (apart < radius_um) & (slide[:, None] == every_slide[None, :])


def log_expression(counts: Tensor, totals: Tensor) -> Tensor:
    """log1p of counts scaled to 10,000: (n, genes), (n,) → (n, genes)."""
    return torch.log1p(counts * (1e4 / totals.clamp_min(1.0))[:, None])


def squared_error(
    predicted: Tensor, counts: Tensor, totals: Tensor, scale: Tensor, measured: Tensor | None
) -> Tensor:
    """Mean squared error of log1p counts per 10,000, in units of each gene's deviation.

    Args:
        predicted: (n, genes) log1p counts per 10,000.
        counts, totals: (n, genes) and (n,) raw.
        scale: (genes,) standard deviations in the training part.
        measured: (n, genes) True where the row's panel has the gene; None for everywhere.

    Returns:
        scalar: mean over each row's measured genes, then over the rows.
    """
    errors = ((predicted - log_expression(counts, totals)) / scale).square()
    return _over_measured(errors, measured)


def negative_binomial(
    predicted: Tensor,
    counts: Tensor,
    totals: Tensor,
    log_dispersion: Tensor,
    measured: Tensor | None,
) -> Tensor:
    """Negative log-likelihood of counts under a negative binomial (Lopez et al., scVI, 2018).

    The mean is what is predicted, times the row's library size; the variance is
    mean + mean² × dispersion.

    Args:
        predicted: (n, genes) log1p of the expected counts per 10,000.
        counts, totals: (n, genes) and (n,) raw.
        log_dispersion: (genes,).
        measured: as for `squared_error`.

    Returns:
        scalar, up to a constant of the counts.
    """
    predicted = functional.softplus(predicted.float(), beta=1 / _BEND)
    mean = torch.expm1(predicted) * (totals[:, None] / 1e4)
    mean = mean.clamp_min(1e-8)
    size = torch.exp(-log_dispersion.float()).clamp(1e-4, 1e6)
    both = torch.log(size + mean)
    likelihood = (
        torch.lgamma(counts + size)
        - torch.lgamma(size)
        + size * (torch.log(size) - both)
        + counts * (torch.log(mean) - both)
    )
    return _over_measured(-likelihood, measured)


def _over_measured(values: Tensor, measured: Tensor | None) -> Tensor:
    """Mean over each row's measured genes, then over the rows."""
    if measured is None:
        return values.mean()
    weight = measured / measured.sum(1, keepdim=True).clamp_min(1)
    return (values * weight).sum(1).mean()
