"""Registry of image encoders.

An encoder is one entry: what it is, what it expects, whose weights it loads, and how it is built.
Two kinds exist. A *dense* encoder is run once per tile and gives feature maps that are pooled under
every cell (the shared forward). A *crop* encoder sees one crop per cell and gives one vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ml.errors import InputError


class DenseEncoder(Protocol):
    """An encoder of whole tiles."""

    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """Feature maps of a normalised image (1, 3, H, W): name → (C, H / stride, W / stride)."""
        ...


@dataclass(frozen=True)
class EncoderEntry:
    """One image encoder.

    Attributes:
        name: key in the registry.
        kind: ``dense`` (feature maps over tiles) or ``crop`` (a vector per crop).
        dim: length of the vector, or the sum of the map channels of a dense encoder.
        maps: name → (stride in px, channels) of a dense encoder's maps; empty for crop encoders.
        patch: side in px of a transformer's patch; 0 for convolutional encoders.
        mpp: microns per pixel that the encoder is used at.
        mean, std: per-channel normalisation in 0..255 units.
        pooling: how a vector is made of its outputs.
        precision: precision that its features are computed in.
        licence: licence of the weights.
        gated: whether the owner asks for an agreement before the weights can be had.
        weights: where the weights come from.
        frozen: whether training leaves the weights as they are.
        build: makes the module with its weights loaded, in eval mode where frozen.
    """

    name: str
    kind: Literal["dense", "crop"]
    dim: int
    mpp: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pooling: str
    licence: str
    weights: str
    build: Callable[[], nn.Module]
    maps: dict[str, tuple[int, int]] = field(default_factory=dict)
    patch: int = 0
    precision: str = "float32"
    gated: bool = False
    frozen: bool = True

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise uint8 or float images (N, 3, H, W) with values 0..255 to float32."""
        mean = torch.tensor(self.mean, device=image.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=image.device).view(1, 3, 1, 1)
        return (image.float() - mean) / std


_ENCODERS: dict[str, EncoderEntry] = {}


def register(**facts: object) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Decorator: list the decorated builder as an encoder with these facts."""

    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        entry = EncoderEntry(build=build, **facts)  # type: ignore[arg-type]
        if entry.name in _ENCODERS:
            raise ValueError(f"image encoder {entry.name} is registered twice")
        _ENCODERS[entry.name] = entry
        return build

    return add


def names() -> list[str]:
    """Names of all image encoders."""
    from ml.models import efficientnet_lite, vit  # noqa: F401  (importing registers them)

    return sorted(_ENCODERS)


def get(name: str) -> EncoderEntry:
    """The entry of that name. Raises InputError ``encoder.unknown``."""
    known = names()
    if name not in known:
        raise InputError(
            "encoder.unknown",
            f"encoder {name!r}",
            "There is no image encoder of this name.",
            f"Choose one of: {', '.join(known)}.",
        )
    return _ENCODERS[name]
