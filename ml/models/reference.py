"""PAST's reference mode: the published function of published weights (arXiv 2507.06418).

It keeps what the released weights were trained with, also where the improved mode does better: the
mean over a cell's positions includes padding; the neighbourhood reads token ids as if they were
measurements, and no distances; the soft targets of the loss come from the embeddings themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ml.errors import InputError
from ml.models.reference_layers import (
    CellEncoder,
    GraphEncoder,
    ImageEncoder,
    ImageTransformer,
    JoinedAttention,
    ReferenceProjection,
)
from ml.tokens.vocabulary import Vocabulary

FUSION_HEADS = 4
SPARE_EMBEDDINGS = 5
"""Rows that the published embedding table has beyond its token ids."""


@dataclass(frozen=True)
class ReferenceSizes:
    """Everything that shapes the network; all but the heads can be read off its tensors.

    Attributes:
        patch, grid: side of a patch in px, and patches along a side of the image.
        image_dim, image_depth, image_hidden, image_heads: image transformer.
        vocabulary: rows of the embedding table.
        context: tokens per cell.
        cell_dim, cell_depth, cell_hidden, cell_heads: cell transformer.
        graph_hidden: width between the two graph attention layers.
        project: width of the shared space.
    """

    patch: int
    grid: int
    image_dim: int
    image_depth: int
    image_hidden: int
    image_heads: int
    vocabulary: int
    context: int
    cell_dim: int
    cell_depth: int
    cell_hidden: int
    cell_heads: int
    graph_hidden: int
    project: int


class ReferencePAST(nn.Module):
    """The published network. Its state dict has the published names."""

    attn_bias: Tensor

    def __init__(self, sizes: ReferenceSizes) -> None:
        super().__init__()
        s = self.sizes = sizes
        self.image_encoder = ImageEncoder(
            ImageTransformer(
                s.patch, s.grid, s.image_dim, s.image_depth, s.image_heads, s.image_hidden
            )
        )
        self.cell_encoder = CellEncoder(
            s.vocabulary, s.context, s.cell_dim, s.cell_depth, s.cell_heads, s.cell_hidden
        )
        self.graph_encoder = GraphEncoder(s.context, s.graph_hidden, s.cell_dim)
        self.fusion_layer = JoinedAttention(s.cell_dim, FUSION_HEADS)
        self.fusion_norm = nn.LayerNorm(s.cell_dim)
        self.image_projection = ReferenceProjection(s.image_dim, s.project)
        self.cell_projection = ReferenceProjection(s.cell_dim, s.project)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        # The neighbourhood starts with e times less attention than the cell itself.
        self.register_buffer("attn_bias", torch.tensor([[0.0, -1.0]]))

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        image_heads: int | None = None,
        cell_heads: int | None = None,
        vocabulary: Vocabulary | None = None,
        device: torch.device | None = None,
    ) -> ReferencePAST:
        """The model of a published checkpoint or of a folder that `convert` wrote, in eval mode.

        Args:
            path: ``.pth`` with the weights under ``"model"`` (read without running any code in
                it), ``.safetensors``, or a folder.
            image_heads, cell_heads: attention heads, which tensors do not tell; by default those
                that the folder states, or the published 16 and 16.
            vocabulary: the genes it is meant for; a table of another size is refused.

        Raises:
            InputError ``checkpoint.*`` as `ml.models.reference_files` lists them, or
            ``checkpoint.vocabulary``.
        """
        from ml.models.reference_files import read_model

        model = read_model(Path(path), image_heads, cell_heads)
        if vocabulary is not None:
            model.check_vocabulary(vocabulary, str(path))
        return model.to(device or torch.device("cpu")).eval()

    def encode_image(self, image: Tensor) -> Tensor:
        """Images (n, 3, side, side), normalised as their encoder wants → unit vectors (n, project).

        Raises:
            InputError ``image.size``.
        """
        out: Tensor = self.image_projection(self.image_features(image))
        return out

    def encode_cell(
        self,
        tokens: Tensor,
        padding_mask: Tensor,
        graph_tokens: Tensor,
        graph_edge_index: Tensor,
        graph_ptr: Tensor,
    ) -> Tensor:
        """Cells with their neighbourhoods → unit vectors (n, project).

        Args:
            tokens: (n, context) ids: modality, assay, species, then genes by rank.
            padding_mask: (n, context) true at padding.
            graph_tokens: (nodes, context) ids of all cells of all neighbourhoods; the last node of
                each graph is the cell itself.
            graph_edge_index: (2, edges) node numbers, from row 0 to row 1.
            graph_ptr: (n + 1,) graph i has the nodes graph_ptr[i] to graph_ptr[i + 1] − 1.

        Raises:
            InputError ``tokens.shape``, ``tokens.vocabulary``, ``tokens.empty``, ``graph.shape``.
        """
        cell = self.cell_features(tokens, padding_mask)
        if len(graph_ptr) != len(tokens) + 1:
            raise InputError(
                "graph.shape",
                "neighbourhoods",
                f"There are {len(graph_ptr) - 1} for {len(tokens)} cells.",
                "Give one neighbourhood for each cell.",
            )
        near = self.graph_features(graph_tokens, graph_edge_index, graph_ptr)
        out: Tensor = self.cell_projection(self.fuse(cell, near))
        return out

    def image_features(self, image: Tensor) -> Tensor:
        """Class tokens (n, image_dim) of normalised images."""
        side = self.sizes.patch * self.sizes.grid
        if image.ndim != 4 or image.shape[1:] != (3, side, side):
            raise InputError(
                "image.size",
                "images",
                f"They have the shape {tuple(image.shape)}, not (n, 3, {side}, {side}).",
                f"Give RGB crops of {side} px.",
            )
        out: Tensor = self.image_encoder(image)
        return out

    def cell_features(self, tokens: Tensor, padding_mask: Tensor) -> Tensor:
        """Cells (n, cell_dim) by themselves."""
        self._check_tokens(tokens)
        padding = padding_mask.bool()
        if padding.all(1).any():
            raise InputError(
                "tokens.empty",
                "cells",
                f"{int(padding.all(1).sum())} of {len(padding)} cells are padding only.",
                "Leave out cells without counts.",
            )
        out: Tensor = self.cell_encoder(tokens.long(), padding)
        return out

    def graph_features(self, tokens: Tensor, edges: Tensor, ptr: Tensor) -> Tensor:
        """Neighbourhoods (n, cell_dim): the centre of each, which is its last node."""
        self._check_tokens(tokens)
        if int(ptr[-1]) != len(tokens) or bool((ptr.diff() < 1).any()):
            raise InputError(
                "graph.shape",
                "neighbourhoods",
                f"Their bounds do not divide the {len(tokens)} nodes.",
                "Bounds begin at 0, rise, and end at the number of nodes.",
            )
        nodes: Tensor = self.graph_encoder(tokens, edges.long())
        return nodes[ptr[1:].long() - 1]

    def fuse(self, cell: Tensor, near: Tensor) -> Tensor:
        """Cells (n, cell_dim) that have attended to themselves and their neighbourhoods."""
        query = cell[:, None]
        both = torch.stack([cell, near], dim=1)
        bias = self.attn_bias.to(cell.dtype)
        mixed = self.fusion_layer(query, both, bias.expand(len(cell), 1, 1, -1))
        out: Tensor = self.fusion_norm(cell + mixed[:, 0])
        return out

    def loss(self, image_embedding: Tensor, cell_embedding: Tensor) -> Tensor:
        """Contrast with soft targets of n pairs of unit vectors (n, project), a scalar.

        The target of a row is the softmax of the mean of both self-similarities; the images' are
        those of the cells transposed.
        """
        temperature = self.temperature.clamp(0.01, 1.0)
        logits = cell_embedding @ image_embedding.T / temperature
        alike = (image_embedding @ image_embedding.T + cell_embedding @ cell_embedding.T) / 2
        target = (alike / temperature).softmax(-1)
        cells = -(target * logits.log_softmax(-1)).sum(1)
        images = -(target.T * logits.T.log_softmax(-1)).sum(1)
        return (cells + images).mean() / 2

    def forward(self, image: Tensor, *cells: Tensor) -> Tensor:
        """Loss of a batch: what `encode_image` and `encode_cell` take, in this order."""
        return self.loss(self.encode_image(image), self.encode_cell(*cells))

    def check_vocabulary(self, vocabulary: Vocabulary, where: str) -> None:
        """Refuses a vocabulary whose ids are not those of the embedding table."""
        rows = self.sizes.vocabulary
        if rows not in (len(vocabulary), len(vocabulary) + SPARE_EMBEDDINGS):
            raise InputError(
                "checkpoint.vocabulary",
                where,
                f"It embeds {rows:,} token ids; {len(vocabulary.symbols):,} genes have "
                f"{len(vocabulary):,} (and {SPARE_EMBEDDINGS} spare ones).",
                "Use the vocabulary that the checkpoint was trained with.",
            )

    def _check_tokens(self, tokens: Tensor) -> None:
        rows, context = self.sizes.vocabulary, self.sizes.context
        if tokens.ndim != 2 or tokens.shape[1] != context:
            raise InputError(
                "tokens.shape",
                "cells",
                f"Their tokens have the shape {tuple(tokens.shape)}, not (n, {context}).",
                f"Tokenise with a context of {context}, the auxiliary tokens included.",
            )
        if len(tokens) and (int(tokens.min()) < 0 or int(tokens.max()) >= rows):
            raise InputError(
                "tokens.vocabulary",
                "cells",
                f"There are token ids from {int(tokens.min())} to {int(tokens.max())}; this model "
                f"knows 0 to {rows - 1}.",
                "Use the vocabulary that the checkpoint was trained with.",
            )
