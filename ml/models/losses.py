"""Losses of the improved mode."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(image: Tensor, cell: Tensor, temperature: Tensor, near: Tensor) -> Tensor:
    """Symmetric InfoNCE (Radford et al., arXiv 2103.00020).

    Args:
        image, cell: (n, dim) L2-normalised embeddings; row i of both belongs together.
        temperature: scalar.
        near: (n, n) True where j is so close to i that it is no negative for it: neighbours whose
            windows overlap look nearly the same. The diagonal is ignored.

    Returns:
        scalar.
    """
    logits = image @ cell.T / temperature
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(near & ~own, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    ) / 2


def near_pairs(xy_um: Tensor, slide: Tensor, radius_um: float) -> Tensor:
    """Pairs of rows of one slide that lie within a radius: (n, 2), (n,) → (n, n) bool."""
    return (torch.cdist(xy_um, xy_um) < radius_um) & (slide[:, None] == slide[None, :])


def expression_loss(predicted: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Mean squared error in units of each gene's deviation in the training part.

    Args:
        predicted, target: (n, genes) log1p counts per 10,000.
        scale: (genes,) standard deviations.
    """
    return ((predicted - target) / scale).square().mean()
