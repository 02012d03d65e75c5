"""Image encoders by name, for whoever must not load torch to list them.

What they are is in the registry, `ml.models.encoders`; a test holds this list against it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

FOLDER = "PAST_ENCODERS"
"""Environment variable: a folder with a folder for each encoder, which holds its owner's file."""

DEFAULT = "efficientnet_lite0"


@dataclass(frozen=True)
class Listed:
    """An encoder that a model can be trained with.

    Attributes:
        name: key in the registry.
        title: what it is, for a person who chooses.
        gated: whether its owner asks for an agreement.
        files: names that the owner's file may have; empty where none has to be given.
    """

    name: str
    title: str
    gated: bool = False
    files: tuple[str, ...] = ()

    def is_here(self) -> bool:
        """Whether training can start: no file is needed, or one is in its place."""
        if not self.files:
            return True
        shelf = os.environ.get(FOLDER)
        return shelf is not None and any(
            (Path(shelf) / self.name / f).is_file() for f in self.files
        )

    @property
    def note(self) -> str:
        """What is in the way of choosing it, or is to be known of its weights."""
        if not self.files:
            return ""
        agreed = "owner's file, by agreement" if self.gated else "owner's file"
        return agreed if self.is_here() else f"needs its {agreed}"


_TIMM = ("pytorch_model.bin", "model.safetensors")
_TRANSFORMERS = ("model.safetensors", "pytorch_model.bin")

LISTED = (
    Listed("efficientnet_lite0", "EfficientNet-Lite0, ImageNet weights"),
    Listed("vit_tiny", "ViT-Ti/16, trained from scratch on crops"),
    Listed("vit_small", "ViT-S/16, trained from scratch on crops"),
    Listed("uni", "UNI", True, _TIMM),
    Listed("uni2_h", "UNI2-h", True, _TIMM),
    Listed("virchow2", "Virchow2", True, _TIMM),
    Listed("h_optimus_0", "H-optimus-0", True, _TIMM),
    Listed("h0_mini", "H0-mini", True, _TIMM),
    Listed("midnight_12k", "Midnight-12k", False, _TRANSFORMERS),
    Listed("phikon", "Phikon", False, _TRANSFORMERS),
    Listed("conch", "CONCH", True, ("pytorch_model.bin",)),
)
NAMES = tuple(entry.name for entry in LISTED)
