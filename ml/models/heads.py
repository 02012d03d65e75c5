"""Heads: image features to embeddings, embeddings to the shared space and to expression."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.models import lora
from ml.models.batches import CropBatch
from ml.models.encoders import EncoderEntry


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
    """One trainable encoder over two crops of each row, joined.

    Args:
        entry: the encoder's entry in the registry; an encoder whose weights are in a file is made
            without them, for they are in the model's own checkpoint or are loaded next.
        dim: width of the embeddings.
        lora_rank: of the adaptation of its attention; 0 for none.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, entry: EncoderEntry, dim: int, dropout: float, lora_rank: int = 0) -> None:
        super().__init__()
        self.encoder = entry.empty()
        if lora_rank:
            lora.adapt(self.encoder, lora_rank)
        self.join = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * entry.dim, dim))
        for name, value in (("mean", entry.mean), ("std", entry.std)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def forward(self, crops: CropBatch) -> Tensor:
        """Crops of n rows → embeddings (n, dim)."""
        both = [self.encoder(self._normalised(pixels)) for pixels in (crops.context, crops.cell)]
        out: Tensor = self.join(torch.cat(both, dim=1))
        return out

    def _normalised(self, pixels: Tensor) -> Tensor:
        """(n, side, side, 3) uint8 → (n, 3, side, side) float32, channels last in memory."""
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std


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
    per 10,000, and ``loadings`` (rank, genes), orthonormal rows. ``log_dispersion`` (genes,) is a
    parameter of the counts' negative binomial.
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
        self.log_dispersion = nn.Parameter(torch.zeros(genes))

    def forward(self, embedding: Tensor) -> Tensor:
        """(n, dim) → (n, genes) log1p counts per 10,000."""
        scores: Tensor = self.programmes(embedding)
        return self.mean + self.scale * (scores @ self.loadings)
