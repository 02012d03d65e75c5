"""Parts of the published PAST network, under the published parameter names.

They compute what the released weights were trained with, peculiarities included: see
``ml.models.reference``. The improved mode has parts of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.models.vit import Attention, Mlp, PatchEmbed

AUXILIARY = 3
"""Positions that a cell begins with: modality, assay, species."""


class LayerScale(nn.Module):
    """A factor per channel (Touvron et al., arXiv 2103.17239)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class ImageBlock(nn.Module):
    """Pre-norm transformer block with LayerScale on both branches."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class ImageTransformer(nn.Module):
    """ViT with timm's parameter names that returns the class token.

    Args:
        patch: side of a patch in px.
        grid: patches along a side of the image.
        dim, depth, heads, hidden: the transformer; `hidden` is the width of its perceptrons.
    """

    def __init__(
        self, patch: int, grid: int, dim: int, depth: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, dim))
        self.blocks = nn.ModuleList(ImageBlock(dim, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images (n, 3, grid·patch, grid·patch) → class tokens (n, dim)."""
        x = self.patch_embed(image)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)[:, 0]
        return out


class ImageEncoder(nn.Module):
    """The transformer one level down, where the published names have it."""

    def __init__(self, model: ImageTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.model(image)
        return out


class JoinedAttention(nn.Module):
    """Multi-head attention whose query, key and value projections are one matrix."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        """Attention of (n, q, dim) to (n, k, dim).

        `bias` is added to the logits; it is broadcast to (n, heads, q, k), and −∞ masks a key.
        """
        query_weight, *context_weights = self.in_proj_weight.chunk(3)
        query_bias, *context_biases = self.in_proj_bias.chunk(3)
        q = self._split(functional.linear(query, query_weight, query_bias))
        k, v = (
            self._split(functional.linear(context, weight, offset))
            for weight, offset in zip(context_weights, context_biases, strict=True)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(n, length, dim) → (n, heads, length, dim / heads)."""
        n, length, dim = x.shape
        return x.reshape(n, length, self.heads, dim // self.heads).transpose(1, 2)


class CellLayer(nn.Module):
    """Post-norm transformer layer with ReLU, named as torch names its own."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = JoinedAttention(dim, heads)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x, x, bias))
        out: Tensor = self.norm2(x + self.linear2(functional.relu(self.linear1(x))))
        return out


class CellLayers(nn.Module):
    """The layers one level down, where the published names have them."""

    def __init__(self, depth: int, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CellLayer(dim, heads, hidden) for _ in range(depth))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, bias)
        return x


class CellEncoder(nn.Module):
    """Transformer over a cell's tokens; the cell is the mean of all positions from the fourth on.

    Padding is masked in the attention, yet its positions are part of that mean: the published
    weights were trained so.

    Args:
        vocabulary: rows of the embedding table.
        context: tokens per cell, auxiliary ones and padding included.
        dim, depth, heads, hidden: the transformer.
    """

    def __init__(
        self, vocabulary: int, context: int, dim: int, depth: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocabulary, dim)
        self.positional_embedding = nn.Embedding(context, dim)
        self.encoder = CellLayers(depth, dim, heads, hidden)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """(n, context) token ids and a mask that is True at padding → (n, dim)."""
        x = self.embeddings(tokens) + self.positional_embedding.weight
        bias = torch.zeros_like(padding, dtype=x.dtype).masked_fill(padding, float("-inf"))
        x = self.encoder(x, bias[:, None, None, :])
        out: Tensor = x[:, AUXILIARY:].mean(1)
        return out


class GraphAttention(nn.Module):
    """Graph attention with one head and self-loops (Veličković et al., arXiv 1710.10903).

    Args:
        inputs, outputs: features of a node before and after.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lin = nn.Linear(inputs, outputs, bias=False)
        self.att_src = nn.Parameter(torch.empty(1, 1, outputs))
        self.att_dst = nn.Parameter(torch.empty(1, 1, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.att_src)
        nn.init.xavier_uniform_(self.att_dst)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Node features (nodes, inputs) and edges (2, m) from row 0 to row 1 → (nodes, outputs)."""
        source, target = with_self_loops(edges, len(x))
        x = self.lin(x)
        towards = (x * self.att_src[0]).sum(1)[source] + (x * self.att_dst[0]).sum(1)[target]
        share = softmax_per_node(functional.leaky_relu(towards, 0.2), target, len(x))
        gathered = torch.zeros_like(x).index_add(0, target, share[:, None] * x[source])
        return gathered + self.bias


def with_self_loops(edges: Tensor, nodes: int) -> Tensor:
    """Edges (2, m) with exactly one loop per node, as the published layer adds them."""
    kept = edges[:, edges[0] != edges[1]]
    loops = torch.arange(nodes, device=edges.device)
    return torch.cat([kept, loops.expand(2, nodes)], dim=1)


def softmax_per_node(logits: Tensor, node: Tensor, nodes: int) -> Tensor:
    """Softmax of (m,) logits among those that share a `node` (m,)."""
    highest = logits.new_full((nodes,), float("-inf")).scatter_reduce(0, node, logits, "amax")
    weight = (logits - highest[node]).exp()
    return weight / torch.zeros_like(highest).index_add(0, node, weight)[node]


class GraphEncoder(nn.Module):
    """Two graph attention layers over *raw token ids*, the published neighbourhood.

    Each node's features are its token ids as numbers; distances play no part.
    """

    def __init__(self, context: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([GraphAttention(context, hidden), GraphAttention(hidden, dim)])
        self.norms = nn.ModuleList([nn.LayerNorm(hidden), nn.LayerNorm(dim)])

    def forward(self, tokens: Tensor, edges: Tensor) -> Tensor:
        """Token ids (nodes, context) and edges (2, m) → nodes (nodes, dim)."""
        x = self.convs[0](tokens.float(), edges)
        x = functional.relu(self.norms[0](x))
        out: Tensor = self.norms[1](self.convs[1](x, edges))
        return out


class ReferenceProjection(nn.Module):
    """Linear → GELU → linear → dropout, with a residual, then LayerNorm and unit length."""

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, outputs)
        self.fc = nn.Linear(outputs, outputs)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(x)
        x = self.layer_norm(x + self.dropout(self.fc(functional.gelu(x))))
        return functional.normalize(x, dim=-1)
