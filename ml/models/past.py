"""PAST (Pathology And Single-cell Transcriptomics, arXiv 2507.06418), improved mode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ml.models import encoders
from ml.models.cell_encoder import CellEncoder
from ml.models.config import ModelConfig
from ml.models.density import Density
from ml.models.heads import CropHead, ExpressionHead, FeatureHead, Projection
from ml.models.losses import expression_loss, info_nce, near_pairs
from ml.models.neighbourhood import Neighbourhood

if TYPE_CHECKING:
    from ml.models.reference import ReferencePAST


class ImageBatch(NamedTuple):
    """What the image side sees of n rows.

    Attributes:
        rows: features (n, inputs), or crops (n, 2, 3, side, side) for crop encoders.
        neighbours: features of the nearest rows (n, k, inputs); k = 0 for crop encoders.
        distance_um: (n, k).
        absent: (n, k) True where there is no such neighbour.
    """

    rows: Tensor
    neighbours: Tensor
    distance_um: Tensor
    absent: Tensor


class CellBatch(NamedTuple):
    """What is measured of n rows.

    Attributes:
        tokens: (n, context) rank tokens.
        expression: (n, genes) log1p counts per 10,000.
        xy_um: (n, 2) positions.
        slide: (n,) number of the slide.
    """

    tokens: Tensor
    expression: Tensor
    xy_um: Tensor
    slide: Tensor


@dataclass(frozen=True)
class LossWeights:
    """Weight of each loss; 0 leaves a loss out.

    Attributes:
        expression: regression of expression from the image.
        contrast: InfoNCE between image and cell embeddings, while expression is trained. It takes
            most of a step's time and does expression no good; the shared space is trained by the
            alignment phase that follows.
        contrast_rows: rows of each batch that the contrast is computed on.
        near_um: rows of one slide closer than this are no negatives for each other.
    """

    expression: float = 1.0
    contrast: float = 0.0
    contrast_rows: int = 64
    near_um: float = 28.0


class Member(nn.Module):
    """One PAST network: image and cell side, joined in the shared space."""

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
            self.image_encoder = CropHead(entry.build(), entry.dim, a.dim, a.dropout)
        self.neighbourhood = (
            Neighbourhood(a.dim, a.cell_heads, a.radius_um / 4, a.dropout) if a.neighbours else None
        )
        self.drop = nn.Dropout(a.dropout)
        self.cell_encoder = CellEncoder(
            len(config.vocabulary), a.context, a.dim, a.cell_layers, a.cell_heads, a.dropout
        )
        self.image_projection = Projection(a.dim, a.project)
        self.cell_projection = Projection(a.dim, a.project)
        self.expression_head = ExpressionHead(a.dim, a.rank, genes)
        self.log_temperature = nn.Parameter(torch.tensor(0.07).log())

    def embed(self, batch: ImageBatch) -> Tensor:
        """Image embeddings (n, dim) of rows in their neighbourhood."""
        x: Tensor = self.image_encoder(batch.rows)
        if self.neighbourhood is not None and batch.neighbours.shape[1]:
            # Each neighbour is a row of its own in some other batch, and is trained on there.
            if isinstance(self.image_encoder, FeatureHead) and not self.through:
                near = self.image_encoder.constant(batch.neighbours)
            else:
                near = self.image_encoder(batch.neighbours)
            x = self.neighbourhood(x, near, batch.distance_um, batch.absent)
        return x

    def losses(
        self, batch: ImageBatch, cells: CellBatch, weights: LossWeights
    ) -> dict[str, Tensor]:
        """Weighted losses by name; their sum is what training lowers."""
        image = self.drop(self.embed(batch))
        found: dict[str, Tensor] = {}
        if weights.expression:
            predicted = self.expression_head(image)
            found["expression"] = weights.expression * expression_loss(
                predicted, cells.expression, self.expression_head.scale
            )
        if weights.contrast:
            rows = slice(0, weights.contrast_rows)
            temperature = self.log_temperature.exp().clamp(0.01, 1.0)
            found["contrast"] = weights.contrast * info_nce(
                self.image_projection(image[rows]),
                self.cell_projection(self.cell_encoder(cells.tokens[rows])),
                temperature,
                near_pairs(cells.xy_um[rows], cells.slide[rows], weights.near_um),
            )
        return found


class PAST(nn.Module):
    """An ensemble of one or more members with the standardisation of their image features.

    Buffers ``feature_mean`` and ``feature_scale`` (inputs,) come from the training part. With
    ``config.per_slide`` they are not used: each slide's features are standardised by its own.
    `density` tells images unlike the training part's; None where none was fitted.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    density: Density | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(Member(config) for _ in range(config.architecture.members))
        inputs = config.features.dim if config.features else 0
        self.register_buffer("feature_mean", torch.zeros(inputs))
        self.register_buffer("feature_scale", torch.ones(inputs))
        self.density = None

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

    def normalise(self, crops: Tensor) -> Tensor:
        """Crops (n, 2, 3, side, side) with values 0..255, as the encoder was made for."""
        entry = encoders.get(self.config.encoder)
        return entry.normalise(crops.flatten(0, 1)).reshape(crops.shape)

    def described(self, rows: Tensor) -> Tensor:
        """What the density is over: standardised features, or the first member's embeddings.

        Args:
            rows: as in `ImageBatch`.
        """
        if self.config.features is not None:
            return rows
        out: Tensor = self.networks()[0].image_encoder(rows)
        return out

    @torch.no_grad()
    def predict(self, batch: ImageBatch) -> Tensor:
        """Expression (n, genes) log1p counts per 10,000, never below 0."""
        each = [m.expression_head(m.embed(batch)) for m in self.networks()]
        return torch.stack(each).mean(0).clamp_min(0.0)

    @torch.no_grad()
    def encode_image(self, batch: ImageBatch) -> Tensor:
        """Unit vectors (n, project) of the first member's shared space."""
        member = self.networks()[0]
        out: Tensor = member.image_projection(member.embed(batch))
        return out

    @torch.no_grad()
    def encode_cell(self, tokens: Tensor) -> Tensor:
        """Rank tokens (n, context) → unit vectors (n, project) of the first member's space."""
        member = self.networks()[0]
        out: Tensor = member.cell_projection(member.cell_encoder(tokens))
        return out
