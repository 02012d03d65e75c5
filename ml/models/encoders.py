"""Registry of image encoders.

An encoder is one entry: what it is, what it expects, whose weights it loads, and how it is built.
Two kinds exist. A *dense* encoder is run once per tile and gives feature maps that are pooled under
every cell (the shared forward). A *crop* encoder sees one crop per cell and gives one vector. A
vision transformer can do both, whatever its kind: the kind says what training does with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ml.errors import InputError

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])
Precision = Literal["float32", "float16", "bfloat16"]


class DenseEncoder(Protocol):
    """An encoder of whole tiles."""

    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """Feature maps of normalised images (n, 3, H, W): name → (n, C, H / stride, W / stride)."""
        ...


@dataclass(frozen=True)
class EncoderEntry:
    """One image encoder.

    Attributes:
        name: key in the registry.
        kind: ``dense`` (feature maps over tiles) or ``crop`` (a vector per crop).
        dim: length of the vector of a crop; of an encoder that only has maps, the sum of their
            channels.
        maps: name → (stride in px, channels) of its maps; empty where there are none.
        architecture: what network it is, and the side in px of the images it was trained on.
        patch: side in px of a transformer's patch; 0 for convolutional encoders.
        mpp: microns per pixel that the encoder is used at.
        mean, std: per-channel normalisation in 0..255 units.
        pooling: how a vector is made of its outputs.
        precision: precision that its features are computed in on a GPU; float32 on a CPU.
        licence: licence of the weights.
        gated: whether the owner asks for an agreement before the weights can be had.
        weights: where the weights come from.
        files: names that the owner's file may have; empty where no file has to be given.
        frozen: whether training leaves the weights as they are.
        build: makes the module with its weights loaded, in eval mode where frozen. Where `files`
            are named it takes the path of one of them, or of the folder that holds it.
        outline: makes the module of an encoder with `files` without any, for weights that come
            from elsewhere (a checkpoint of a model that holds its encoder).
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
    build: Callable[..., nn.Module]
    maps: dict[str, tuple[int, int]] = field(default_factory=dict)
    architecture: str = ""
    patch: int = 0
    precision: Precision = "float32"
    gated: bool = False
    files: tuple[str, ...] = ()
    frozen: bool = True
    outline: Callable[[], nn.Module] | None = None

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise uint8 or float images (N, 3, H, W) with values 0..255 to float32."""
        mean, std = (_per_channel(values, image.device) for values in (self.mean, self.std))
        return (image.float() - mean) / std

    def load(self, path: Path | None = None) -> nn.Module:
        """The module with its weights.

        Args:
            path: file with the owner's weights, or a folder that holds it; None for encoders that
                need none, or to look where `ml.models.foundation_files.find` says.

        Raises:
            InputError: as `ml.models.foundation_files` lists them.
        """
        return self.build(path) if self.files else self.build()

    def empty(self) -> nn.Module:
        """The module for weights that are loaded into it next; reads no owner's file."""
        return self.build() if self.outline is None else self.outline()

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Context in which its features are computed: its precision on a GPU, float32 on a CPU."""
        half = device.type == "cuda" and self.precision != "float32"
        dtype = getattr(torch, self.precision) if half else None
        return torch.autocast(device.type, dtype=dtype, enabled=half)

    def provenance(self, module: nn.Module) -> dict[str, Any]:
        """What a model's config keeps of the encoder it was trained with, as JSON.

        Args:
            module: what `load` returned; the hash of the file it was read from is among the facts.
        """
        return {
            "name": self.name,
            "architecture": self.architecture,
            "dim": self.dim,
            "patch": self.patch,
            "mpp": self.mpp,
            "mean": list(self.mean),
            "std": list(self.std),
            "pooling": self.pooling,
            "precision": self.precision,
            "licence": self.licence,
            "gated": self.gated,
            "weights": self.weights,
            "sha256": getattr(module, "weights_sha256", None),
        }


@functools.cache
def _per_channel(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """(1, 3, 1, 1), copied to a device once: a copy for each image would wait for the device."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


_ENCODERS: dict[str, EncoderEntry] = {}


def register(**facts: Any) -> Callable[[Builder], Builder]:
    """Decorator: list the decorated builder as an encoder with these facts."""

    def add(build: Builder) -> Builder:
        entry = EncoderEntry(build=build, **facts)
        if entry.name in _ENCODERS:
            raise ValueError(f"image encoder {entry.name} is registered twice")
        _ENCODERS[entry.name] = entry
        return build

    return add


def names() -> list[str]:
    """Names of all image encoders."""
    from ml.models import efficientnet_lite, foundation, vit  # noqa: F401  (importing registers)

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
