"""Transformer over a cell's rank tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ml.tokens.vocabulary import PAD


class CellEncoder(nn.Module):
    """Post-norm transformer over rank tokens; the cell is the mean of its real positions.

    Padding is masked out of the attention and out of the mean, so it changes nothing.

    Args:
        vocabulary: number of token ids.
        context: tokens per cell.
        dim, layers, heads: the transformer; its feed-forward width is 2 × dim.
        dropout: dropout of attention and feed-forward layers.
    """

    def __init__(
        self, vocabulary: int, context: int, dim: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocabulary, dim, padding_idx=PAD)
        self.positional_embedding = nn.Embedding(context, dim)
        nn.init.normal_(self.embeddings.weight, std=0.5)
        nn.init.normal_(self.positional_embedding.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 2 * dim, dropout, activation="relu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (n, context) → cell embeddings (n, dim); a cell without tokens gives zeros."""
        pad = tokens == PAD
        width = max(int((~pad).sum(1).max()), 1) if len(tokens) else 1
        tokens, pad = tokens[:, :width], pad[:, :width]
        empty = pad.all(1)
        # A row of padding alone has nothing to attend to: one position is opened, then dropped.
        opened = pad.clone()
        opened[:, 0] &= ~empty
        place = torch.arange(width, device=tokens.device)
        x = self.embeddings(tokens) + self.positional_embedding(place)
        x = self.encoder(x, src_key_padding_mask=opened)
        real = (~pad).unsqueeze(-1).to(x.dtype)
        out: Tensor = (x * real).sum(1) / real.sum(1).clamp_min(1)
        return out
