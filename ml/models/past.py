"""PAST (Pathology And Single-cell Transcriptomics, arXiv 2507.06418), improved mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ml.models import encoders
from ml.models.batches import CellBatch, CropBatch, EmbeddedBatch, ImageBatch
from ml.models.cell_encoder import CellEncoder, MaskedGeneHead, masked
from ml.models.config import ModelConfig
from ml.models.density import Density
from ml.models.heads import CropHead, ExpressionHead, FeatureHead, Projection
from ml.models.intervals import Intervals
from ml.models.losses import negative_binomial, squared_error
from ml.models.neighbourhood import Neighbourhood
from ml.models.refinement import Refinement
from ml.models.types import TypeProbe

if TYPE_CHECKING:
    from ml.models.reference import ReferencePAST

# Share of a cell's genes that are hidden for the masked-gene loss (Devlin et al., 1810.04805).
MASKED_SHARE = 0.15


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss; 0 leaves a loss out, and what only it trains is not computed.

    Attributes:
        expression: squared error of log1p counts per 10,000 predicted from the image.
        counts: negative binomial likelihood of the raw counts under the same prediction. With the
            squared error it does better on held-out rows than either alone.
        contrast: InfoNCE between image and cell embeddings.
        masked_gene: recovery of hidden genes by the cell encoder.
        soft_targets: contrast against the authors' soft targets; for comparison.
        near_um: rows of one slide closer than this are no negatives for each other.
    """

    expression: float = 1.0
    counts: float = 0.3
    contrast: float = 1.0
    masked_gene: float = 0.1
    soft_targets: bool = False
    near_um: float = 28.0


class Outputs(NamedTuple):
    """What a forward pass of n rows gives.

    Attributes:
        image, cell: (n, project) of unit length, for the contrast; None where it has no weight.
        temperature: scalar, of the contrast.
        losses: the other losses by name, weighted, each a mean over the rows.
    """

    image: Tensor | None
    cell: Tensor | None
    temperature: Tensor
    losses: dict[str, Tensor]


class Member(nn.Module):
    """One PAST network: image and cell side, joined in the shared space.

    Both sides see a row among its neighbours, by the same kind of attention, in which the row
    itself is one of the keys: so neighbourhood and fusion are one layer. On the cell side the
    neighbours are encoded by the cell encoder itself; models on crops see the surroundings in the
    context crop and have no such layer on the image side.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        a, genes = config.architecture, len(config.vocabulary.symbols)
        self.through = a.neighbour_gradients
        self.image_encoder: FeatureHead | CropHead
        if config.features is not None:
            self.image_encoder = FeatureHead(
                config.features.dim, a.hidden, a.dim, a.dropout, a.input_dropout
            )
        else:
            entry = encoders.get(config.encoder)
            self.image_encoder = CropHead(entry, a.dim, a.dropout, a.lora_rank)
        self.neighbourhood: Neighbourhood | None = None
        self.cell_neighbourhood: Neighbourhood | None = None
        if a.neighbours:
            length = a.radius_um / 4
            self.cell_neighbourhood = Neighbourhood(a.dim, a.cell_heads, length, a.dropout)
            if config.features is not None:
                self.neighbourhood = Neighbourhood(a.dim, a.cell_heads, length, a.dropout)
        self.drop = nn.Dropout(a.dropout)
        self.cell_encoder = CellEncoder(
            len(config.vocabulary),
            a.context,
            a.dim,
            a.cell_layers,
            a.cell_heads,
            a.dropout,
            a.pad_mask,
        )
        self.masked_gene_head = MaskedGeneHead(a.dim, genes)
        self.image_projection = Projection(a.dim, a.project)
        self.cell_projection = Projection(a.dim, a.project)
        self.expression_head = ExpressionHead(a.dim, a.rank, genes)
        self.log_temperature = nn.Parameter(torch.tensor(0.07).log())

    def temperature(self) -> Tensor:
        """Temperature of the contrast, between 0.01 and 1."""
        return self.log_temperature.exp().clamp(0.01, 1.0)

    def embed(self, batch: ImageBatch) -> Tensor:
        """Image embeddings (n, dim) of rows in their neighbourhood."""
        if isinstance(batch, CropBatch):
            out: Tensor = self.image_encoder(batch)
            return out
        if isinstance(batch, EmbeddedBatch):
            return batch.embeddings
        x: Tensor = self.image_encoder(batch.rows)
        if self.neighbourhood is not None and batch.neighbours.shape[1]:
            # Each neighbour is a row of its own in some other batch, and is trained on there.
            if isinstance(self.image_encoder, FeatureHead) and not self.through:
                near = self.image_encoder.constant(batch.neighbours)
            else:
                near = self.image_encoder(batch.neighbours)
            x = self.neighbourhood(x, near, batch.distance_um, batch.absent)
        return x

    def embed_cell(self, cells: CellBatch) -> Tensor:
        """Cell embeddings (n, dim) of rows in their neighbourhood."""
        return self._among(self.cell_encoder(cells.tokens), cells)

    def _among(self, own: Tensor, cells: CellBatch) -> Tensor:
        """Cell embeddings (n, dim) with what their neighbours say."""
        k = cells.neighbour_tokens.shape[1]
        if self.cell_neighbourhood is None or not k:
            return own
        encode = self.cell_encoder if self.through else self.cell_encoder.constant
        near = encode(cells.neighbour_tokens.flatten(0, 1)).reshape(len(own), k, -1)
        out: Tensor = self.cell_neighbourhood(own, near, cells.distance_um, cells.absent)
        return out

    def forward(self, images: ImageBatch, cells: CellBatch, weights: LossWeights) -> Outputs:
        """What training needs of some rows: embeddings to contrast, and losses of each row."""
        losses: dict[str, Tensor] = {}
        own = self._cells(cells, weights, losses)
        image = None
        if weights.expression or weights.counts or weights.contrast:
            image = self.drop(self.embed(images))
            self._expression(image, cells, weights, losses)
        if not weights.contrast or image is None or own is None:
            return Outputs(None, None, self.temperature(), losses)
        cell = self.cell_projection(self._among(own, cells))
        return Outputs(self.image_projection(image), cell, self.temperature(), losses)

    @staticmethod
    def used(weights: LossWeights) -> tuple[str, ...]:
        """Beginnings of the names of the parameters that these losses train."""
        names: list[str] = []
        if weights.expression or weights.counts or weights.contrast:
            names += ["image_encoder.", "neighbourhood."]
        if weights.expression or weights.counts:
            names += ["expression_head.programmes."]
        if weights.counts:
            names += ["expression_head.log_dispersion"]
        if weights.contrast or weights.masked_gene:
            names += ["cell_encoder."]
        if weights.contrast:
            names += ["cell_neighbourhood.", "image_projection.", "cell_projection."]
            names += ["log_temperature"]
        if weights.masked_gene:
            names += ["masked_gene_head."]
        return tuple(names)

    def _expression(
        self, image: Tensor, cells: CellBatch, weights: LossWeights, losses: dict[str, Tensor]
    ) -> None:
        head = self.expression_head
        if not (weights.expression or weights.counts):
            return
        predicted, of = head(image), (cells.counts, cells.totals)
        if weights.expression:
            losses["expression"] = weights.expression * squared_error(
                predicted, *of, head.scale, cells.measured
            )
        if weights.counts:
            losses["counts"] = weights.counts * negative_binomial(
                predicted, *of, head.log_dispersion, cells.measured
            )

    def _cells(
        self, cells: CellBatch, weights: LossWeights, losses: dict[str, Tensor]
    ) -> Tensor | None:
        """Cell embeddings (n, dim) without neighbours, of the pass that also recovers genes."""
        if not weights.masked_gene:
            return self.cell_encoder(cells.tokens) if weights.contrast else None
        tokens, hidden = masked(cells.tokens, MASKED_SHARE)
        parts = list(self.cell_encoder.encoded(tokens))
        losses["masked_gene"] = weights.masked_gene * self.masked_gene_head.loss(
            parts, cells.tokens, hidden, self.cell_encoder.embeddings.weight, MASKED_SHARE
        )
        return self.cell_encoder.pooled(parts)


class PAST(nn.Module):
    """An ensemble of one or more members with the standardisation of their image features.

    Buffers ``feature_mean`` and ``feature_scale`` (inputs,) come from the training part. With
    ``config.per_slide`` they are not used: each slide's features are standardised by its own.
    `types` names cell types, `intervals` says how far predictions may be off, and
    `density` tells images unlike the training part's, `refinement` serves the shared forward of a
    model of crops; None where none was fitted.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    density: Density | None
    types: TypeProbe | None
    intervals: Intervals | None
    refinement: Refinement | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(Member(config) for _ in range(config.architecture.members))
        inputs = config.features.dim if config.features else 0
        self.register_buffer("feature_mean", torch.zeros(inputs))
        self.register_buffer("feature_scale", torch.ones(inputs))
        self.density = None
        self.types = None
        self.intervals = None
        self.refinement = None

    @classmethod
    def from_checkpoint(
        cls,
        path: Path,
        mode: Literal["improved", "reference"] = "improved",
        *,
        image_heads: int | None = None,
        cell_heads: int | None = None,
    ) -> PAST | ReferencePAST:
        """A trained model in eval mode.

        Args:
            path: ``improved``: the folder that training wrote. ``reference``: the published
                checkpoint (.pth, .safetensors), or the folder that `past convert` made of it.
            image_heads, cell_heads: attention heads of a published checkpoint, which no tensor
                tells; 16 where neither these nor the folder say.

        Raises:
            InputError: what cannot be read, or is not what the mode says.
            ValueError: an unknown mode.
        """
        if mode == "reference":
            from ml.models.reference import ReferencePAST

            return ReferencePAST.from_checkpoint(
                Path(path), image_heads=image_heads, cell_heads=cell_heads
            )
        if mode != "improved":
            raise ValueError(f"mode {mode!r} is neither improved nor reference")
        from ml.models.checkpoint import load

        return load(Path(path))

    def networks(self) -> list[Member]:
        """The members, typed."""
        return [member for member in self.members if isinstance(member, Member)]

    def standardise(self, features: Tensor) -> Tensor:
        """Features (..., inputs) in training deviations, cut at ±6 against artefacts."""
        return ((features - self.feature_mean) / self.feature_scale).clamp(-6.0, 6.0)

    def described(self, rows: Tensor | CropBatch) -> Tensor:
        """What the density is over: standardised features, or the first member's embeddings.

        Args:
            rows: features (n, inputs), or crops.
        """
        return rows if isinstance(rows, Tensor) else self.networks()[0].embed(rows)

    def predict(self, batch: ImageBatch) -> Tensor:
        """Expression (n, genes) log1p counts per 10,000, never below 0."""
        return self.expression(self.embed([batch] * len(self.members)))

    @torch.no_grad()
    def embed(self, batches: Sequence[ImageBatch]) -> list[Tensor]:
        """Image embeddings (n, dim) of each member, of a batch for each."""
        return [m.embed(batch) for m, batch in zip(self.networks(), batches, strict=True)]

    @torch.no_grad()
    def expression(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Expression (n, genes) as `predict` gives it, of what `embed` gives."""
        own = zip(self.networks(), embeddings, strict=True)
        each = [m.expression_head(embedded) for m, embedded in own]
        return torch.stack(each).mean(0).clamp_min(0.0)

    @torch.no_grad()
    def encode_image(self, batch: ImageBatch) -> Tensor:
        """Unit vectors (n, project) of the first member's shared space."""
        member = self.networks()[0]
        out: Tensor = member.image_projection(member.embed(batch))
        return out

    @torch.no_grad()
    def encode_cell(self, cells: CellBatch) -> Tensor:
        """Cells with their neighbours → unit vectors (n, project) of the first member's space."""
        member = self.networks()[0]
        out: Tensor = member.cell_projection(member.embed_cell(cells))
        return out
