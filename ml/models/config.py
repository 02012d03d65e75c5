"""Configuration of a PAST model: everything that is needed to rebuild it, as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ml.models.features import FeatureSpec
from ml.tokens.vocabulary import Vocabulary

PRESETS: dict[str, dict[str, Any]] = {
    # dim: image and cell embeddings; rank: latent programmes that the panel is decoded from.
    "tiny": {"dim": 48, "hidden": 96, "cell_layers": 1, "context": 48, "rank": 24},
    "small": {"dim": 96, "hidden": 192, "cell_layers": 2, "context": 96, "rank": 48},
    # The published model's cell side and shared space.
    "base": {
        "dim": 512, "hidden": 1024, "project": 256, "rank": 256,
        "cell_layers": 12, "cell_heads": 16, "context": 297, "dropout": 0.1,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """Sizes of the networks.

    Attributes:
        dim: width of image and cell embeddings.
        hidden: width of the image head's hidden layer.
        project: width of the shared space.
        rank: width of the expression head's bottleneck.
        cell_layers, cell_heads: transformer over rank tokens.
        context: rank tokens per cell.
        neighbours: nearest rows attended to on both sides; 0 turns the neighbourhood off.
        radius_um: rows further away than this are no neighbours.
        dropout: of every network.
        input_dropout: share of the image features that are dropped in training.
        neighbour_gradients: whether training reaches through the neighbours' embeddings too, which
            takes more than twice the time; without, they are constants.
        pad_mask: whether a cell's mean leaves padding out; False only for comparison.
        lora_rank: rank of the matrices that adapt the attention of an image encoder of crops, whose
            own weights then stay as its owner gave them; 0 trains those.
        members: networks trained from different seeds, whose predictions are averaged.
    """

    dim: int = 96
    hidden: int = 192
    project: int = 64
    rank: int = 48
    cell_layers: int = 2
    cell_heads: int = 4
    context: int = 96
    neighbours: int = 8
    radius_um: float = 112.0
    dropout: float = 0.2
    input_dropout: float = 0.2
    neighbour_gradients: bool = False
    pad_mask: bool = True
    lora_rank: int = 0
    members: int = 1


@dataclass(frozen=True)
class ModelConfig:
    """A PAST model.

    Attributes:
        encoder: name of the image encoder.
        features: windows over a dense encoder's maps; None for crop encoders.
        architecture: sizes.
        vocabulary: the panel, in order, with its non-zero means.
        row_kind: ``cell`` or ``spot``.
        spot_diameter_um: diameter of a spot, None for cells.
        spot_pitch_um: distance between neighbouring spots, None for cells.
        mpp: median microns per pixel of the training slides.
        scale_over: counts are scaled over the ``panel`` or over the whole ``table``.
        per_slide: image features are standardised within each slide, not over the training part.
        provenance: training slides and their hashes, seed, versions.
    """

    encoder: str
    features: FeatureSpec | None
    architecture: Architecture
    vocabulary: Vocabulary
    row_kind: Literal["cell", "spot"]
    spot_diameter_um: float | None
    spot_pitch_um: float | None
    mpp: float
    scale_over: Literal["panel", "table"] = "panel"
    per_slide: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "format": 1,
            "encoder": self.encoder,
            "features": self.features.as_dict() if self.features else None,
            "architecture": asdict(self.architecture),
            "vocabulary": self.vocabulary.as_dict(),
            "row_kind": self.row_kind,
            "spot_diameter_um": self.spot_diameter_um,
            "spot_pitch_um": self.spot_pitch_um,
            "mpp": self.mpp,
            "scale_over": self.scale_over,
            "per_slide": self.per_slide,
            "provenance": self.provenance,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """The inverse of `as_dict`."""
        return cls(
            encoder=data["encoder"],
            features=FeatureSpec.from_dict(data["features"]) if data["features"] else None,
            architecture=Architecture(**data["architecture"]),
            vocabulary=Vocabulary.from_dict(data["vocabulary"]),
            row_kind=data["row_kind"],
            spot_diameter_um=data["spot_diameter_um"],
            spot_pitch_um=data["spot_pitch_um"],
            mpp=data["mpp"],
            scale_over=data["scale_over"],
            per_slide=data["per_slide"],
            provenance=data["provenance"],
        )
