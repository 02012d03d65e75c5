"""From pooled patch tokens to the embedding that a model of crops gives its crops."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Refinement(nn.Module):
    """A linear map, distilled from the embeddings of crops by `ml.training.refine`.

    Buffers: ``weights`` (inputs, outputs) and ``intercept`` (outputs,).
    """

    weights: Tensor
    intercept: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(inputs, outputs))
        self.register_buffer("intercept", torch.zeros(outputs))

    @classmethod
    def of(cls, weights: NDArray[np.float64], intercept: NDArray[np.float64]) -> Refinement:
        """With these values."""
        found = cls(*weights.shape)
        found.weights.copy_(torch.from_numpy(weights))
        found.intercept.copy_(torch.from_numpy(intercept))
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        """Pooled tokens (n, inputs) → embeddings (n, outputs)."""
        return self.intercept + tokens.float() @ self.weights
