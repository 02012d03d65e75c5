"""Transformer over a cell's rank tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.tokens.vocabulary import FIRST_GENE, PAD, RESERVED

MASK = RESERVED["mask"]
# On a CPU, cells are encoded in groups of about equal length of at least so many.
_GROUP, _GROUPS = 16, 16
# A share of a whole number may come out a rounding error above what it is.
_ROUNDING = 1e-9


class Encoded(NamedTuple):
    """Some cells of a batch, encoded together.

    Attributes:
        cells: (m,) their numbers in the batch.
        hidden: (m, width, dim) last hidden states.
        pad: (m, width) True at padding.
    """

    cells: Tensor
    hidden: Tensor
    pad: Tensor


class CellEncoder(nn.Module):
    """Post-norm transformer over rank tokens; the cell is the mean of its real positions.

    Padding is masked out of the attention and out of the mean, so it changes nothing. (The authors'
    code takes the mean over padding too, which is most of a short cell: `pad_mask` False does that,
    for comparison.)

    Args:
        vocabulary: number of token ids.
        context: tokens per cell.
        dim, layers, heads: the transformer; its feed-forward width is 2 × dim.
        dropout: dropout of attention and feed-forward layers.
        pad_mask: whether the mean leaves padding out.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        dim: int,
        layers: int,
        heads: int,
        dropout: float,
        pad_mask: bool = True,
    ) -> None:
        super().__init__()
        self.context, self.pad_mask = context, pad_mask
        self.embeddings = nn.Embedding(vocabulary, dim, padding_idx=PAD)
        self.positional_embedding = nn.Embedding(context, dim)
        nn.init.normal_(self.embeddings.weight, std=0.5)
        nn.init.normal_(self.positional_embedding.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 2 * dim, dropout, activation="relu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (n, L ≤ context) → cell embeddings (n, dim); no tokens give zeros."""
        return self.pooled(list(self.encoded(tokens)))

    @torch.no_grad()
    def constant(self, tokens: Tensor) -> Tensor:
        """The same embeddings as constants: without dropout and without gradients.

        On a CPU, cells that occur several times, as neighbours of one another do, are encoded once.
        """
        training = self.training
        again: Tensor | slice = slice(None)
        if tokens.device.type == "cpu":
            tokens, again = torch.unique(tokens, dim=0, return_inverse=True)
        try:
            return self.eval()(tokens)[again]  # type: ignore[no-any-return]
        finally:
            self.train(training)

    def encoded(self, tokens: Tensor) -> Iterator[Encoded]:
        """Hidden states of all positions of cells (n, L).

        On a CPU, cells of about the same length are encoded together and little padding is
        computed; on a GPU, where that would wait for the device, batches are encoded as they come,
        and the loader makes them of similar lengths.
        """
        if not self.pad_mask:
            tokens = functional.pad(tokens, (0, self.context - tokens.shape[1]), value=PAD)
        pad = tokens == PAD
        everyone = torch.arange(len(tokens), device=tokens.device)
        if not self.pad_mask or tokens.device.type != "cpu":
            yield Encoded(everyone, self._hidden(tokens, pad), pad)
            return
        lengths = (~pad).sum(1)
        order = lengths.argsort()
        groups = min(_GROUPS, max(len(tokens) // _GROUP, 1))
        for cells in order.tensor_split(groups):
            width = max(int(lengths[cells[-1]]), 1) if len(cells) else 1
            some, padded = tokens[cells, :width], pad[cells, :width]
            yield Encoded(cells, self._hidden(some, padded), padded)

    def pooled(self, parts: list[Encoded]) -> Tensor:
        """Cell embeddings (n, dim) of what `encoded` gave."""
        means = torch.cat([self._mean(part) for part in parts])
        return means[torch.cat([part.cells for part in parts]).argsort()]

    def _hidden(self, tokens: Tensor, pad: Tensor) -> Tensor:
        # A row of padding alone has nothing to attend to: one position is opened, then dropped.
        opened = pad.clone()
        opened[:, 0] &= ~pad.all(1)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embeddings(tokens) + self.positional_embedding(place)
        out: Tensor = self.encoder(x, src_key_padding_mask=opened)
        return out

    def _mean(self, part: Encoded) -> Tensor:
        if not self.pad_mask:
            return part.hidden.mean(1)
        real = (~part.pad).unsqueeze(-1).to(part.hidden.dtype)
        return (part.hidden * real).sum(1) / real.sum(1).clamp_min(1)


def masked(tokens: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Tokens with some genes hidden: the share of each cell's, rounded up.

    Args:
        tokens: (n, L).
        share: of the genes of a cell, drawn from torch's global generator.

    Returns:
        tokens (n, L) with ``MASK`` at the hidden places, and (n, L) True there.
    """
    gene = tokens >= FIRST_GENE
    draw = torch.rand(tokens.shape, device=tokens.device).masked_fill(~gene, 2.0)
    wanted = (gene.sum(1, keepdim=True).double() * share - _ROUNDING).ceil()
    hide = gene & (draw.argsort(1).argsort(1) < wanted)
    return tokens.masked_fill(hide, MASK), hide


class MaskedGeneHead(nn.Module):
    """Which gene stood at a hidden place: hidden state → logits over genes.

    The genes' own embeddings are the output layer (Press and Wolf, arXiv 1608.05859).
    """

    def __init__(self, dim: int, genes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.bias = nn.Parameter(torch.zeros(genes))

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """(m, dim) and the embedding table (vocabulary, dim) → (m, genes)."""
        x = self.norm(functional.gelu(self.dense(hidden)))
        out: Tensor = functional.linear(x, embeddings[FIRST_GENE:], self.bias)
        return out

    def loss(
        self,
        parts: list[Encoded],
        tokens: Tensor,
        hidden_at: Tensor,
        embeddings: Tensor,
        share: float,
    ) -> Tensor:
        """Cross-entropy at the hidden places: mean of each cell, then over the cells.

        So many places of each cell are looked at as can be hidden, and those that are not weigh
        nothing: to look only at those that are, a GPU would have to be waited for.

        Args:
            parts: `CellEncoder.encoded` of the tokens with genes hidden.
            tokens: (n, L) before hiding.
            hidden_at: (n, L) True at the hidden places.
            share: that was asked for when they were hidden.
        """
        total = embeddings.new_zeros(())
        for part in parts:
            width = part.hidden.shape[1]
            at = hidden_at[part.cells, :width].to(part.hidden.dtype)
            weight, place = at.topk(math.ceil(width * share - _ROUNDING), dim=1)
            wanted = tokens[part.cells, :width].gather(1, place).long() - FIRST_GENE
            where = place.unsqueeze(-1).expand(-1, -1, part.hidden.shape[2])
            logits = self(part.hidden.gather(1, where), embeddings).float()
            each = functional.cross_entropy(
                logits.flatten(0, 1), wanted.clamp_min(0).flatten(), reduction="none"
            ).view_as(weight)
            total = total + (each * weight / at.sum(1, keepdim=True).clamp_min(1)).sum()
        return total / max(len(tokens), 1)
