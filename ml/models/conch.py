"""The image tower of CONCH: a ViT whose tokens one query attends to."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.models.vit import Shape, VisionTransformer

OUTPUTS, HEADS = 512, 8


class QueryAttention(nn.Module):
    """Attention of queries to tokens of another width, named as torch names its own.

    Args:
        dim, context: widths of the queries and of the tokens.
        heads: of the attention.
    """

    def __init__(self, dim: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj_weight = nn.Parameter(torch.empty(dim, dim))
        self.k_proj_weight = nn.Parameter(torch.empty(dim, context))
        self.v_proj_weight = nn.Parameter(torch.empty(dim, context))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        for weight in (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            nn.init.xavier_uniform_(weight)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Queries (n, q, dim) over tokens (n, k, context) → (n, q, dim)."""
        biases = self.in_proj_bias.chunk(3)
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        q, k, v = (
            self._split(functional.linear(x, weight, bias))
            for x, weight, bias in zip((query, tokens, tokens), weights, biases, strict=True)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(n, length, dim) → (n, heads, length, dim / heads)."""
        n, length, dim = x.shape
        return x.reshape(n, length, self.heads, dim // self.heads).transpose(1, 2)


class AttentionPool(nn.Module):
    """One learnt query that attends to the normalised tokens."""

    def __init__(self, dim: int, context: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, dim))
        self.attn = QueryAttention(dim, context, heads)
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(context)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, k, context) → (n, dim)."""
        query = self.ln_q(self.query).expand(len(tokens), 1, -1)
        out: Tensor = self.attn(query, self.ln_k(tokens))[:, 0]
        return out


class ConchImage(nn.Module):
    """CONCH's image encoder without the projection to the space it shares with text.

    Its owner advises this vector for tasks on images alone. Key names are those of the tower.
    """

    def __init__(self, shape: Shape, outputs: int = OUTPUTS, heads: int = HEADS) -> None:
        super().__init__()
        self.trunk = VisionTransformer(shape)
        self.attn_pool_contrast = AttentionPool(outputs, shape.dim, heads)
        self.ln_contrast = nn.LayerNorm(outputs)

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) normalised, sides multiples of the patch → vectors (n, outputs)."""
        out: Tensor = self.ln_contrast(self.attn_pool_contrast(self.trunk.tokens(image)))
        return out

    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """Patch tokens as `VisionTransformer.maps` gives them."""
        return self.trunk.maps(image)
