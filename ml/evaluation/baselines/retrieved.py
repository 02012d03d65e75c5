"""Prediction by retrieval: the mean expression of the training rows that look most alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ml.evaluation.subject import Floats32

NEAREST = 50  # as BLEEP (Xie et al., NeurIPS 2023, arXiv 2306.01859)


@torch.no_grad()
def mean_of_alike(
    queries: Tensor, keys: Tensor, values: Floats32, count: int = NEAREST
) -> Floats32:
    """Mean values of the `count` keys with the highest inner product.

    Args:
        queries: (n, dim) of unit length, of images.
        keys: (m, dim) of unit length, of training rows' expression.
        values: (m, genes) their expression.

    Returns:
        (n, genes) float32.
    """
    found = np.empty((len(queries), values.shape[1]), np.float32)
    count = min(count, len(keys))
    for at in range(0, len(queries), 1024):
        near = (queries[at : at + 1024] @ keys.T).topk(count, dim=1).indices.cpu().numpy()
        found[at : at + 1024] = values[near].mean(1)
    return found
