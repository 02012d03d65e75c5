"""Heads: image features to embeddings, embeddings to the shared space and to expression."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class FeatureHead(nn.Module):
    """Light perceptron on pooled features of a frozen encoder.

    A linear path runs beside the hidden layer, so that few training rows lose nothing against a
    linear model.
    """

    def __init__(
        self, inputs: int, hidden: int, dim: int, dropout: float, input_dropout: float
    ) -> None:
        super().__init__()
        self.drop = nn.Dropout(input_dropout)
        self.linear = nn.Linear(inputs, dim)
        self.hidden = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )
        # The hidden layer starts silent: what the linear path is set to is where training starts.
        last = self.hidden[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Standardised features (..., inputs) → embeddings (..., dim)."""
        x = self.drop(features)
        out: Tensor = self.linear(x) + self.hidden(x)
        return out

    @torch.no_grad()
    def constant(self, features: Tensor) -> Tensor:
        """The same embeddings as constants: without dropout and without gradients."""
        into, activation, _, out_of = self.hidden
        out: Tensor = self.linear(features) + out_of(activation(into(features)))
        return out


class CropHead(nn.Module):
    """One trainable encoder over two crops of each row, joined."""

    def __init__(self, encoder: nn.Module, encoder_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.join = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * encoder_dim, dim))

    def forward(self, crops: Tensor) -> Tensor:
        """Normalised crops (n, 2, 3, side, side): context, then cell → embeddings (n, dim)."""
        both = self.encoder(crops.flatten(0, 1)).reshape(len(crops), -1)
        out: Tensor = self.join(both)
        return out


class Projection(nn.Module):
    """Linear, GELU, linear, dropout, residual, normalisation; then unit length."""

    def __init__(self, inputs: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, dim)
        self.fc = nn.Linear(dim, dim)
        self.drop = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) → (n, dim) of unit length."""
        projected = self.projection(x)
        x = projected + self.drop(self.fc(functional.gelu(projected)))
        return functional.normalize(self.norm(x), dim=-1)


class ExpressionHead(nn.Module):
    """Low-rank decoder: embedding → programmes → genes, around each gene's mean.

    Single rows are noisy, and what is shared between genes is what an image can tell: programmes
    are the principal components of the training part's standardised expression, and stay fixed.

    Buffers: ``mean`` and ``scale`` (genes,), the training part's mean and deviation of log1p counts
    per 10,000, and ``loadings`` (rank, genes), orthonormal rows.
    """

    mean: Tensor
    scale: Tensor
    loadings: Tensor

    def __init__(self, dim: int, rank: int, genes: int) -> None:
        super().__init__()
        self.programmes = nn.Linear(dim, rank)
        self.register_buffer("mean", torch.zeros(genes))
        self.register_buffer("scale", torch.ones(genes))
        self.register_buffer("loadings", torch.zeros(rank, genes))

    def forward(self, embedding: Tensor) -> Tensor:
        """(n, dim) → (n, genes) log1p counts per 10,000."""
        scores: Tensor = self.programmes(embedding)
        return self.mean + self.scale * (scores @ self.loadings)
