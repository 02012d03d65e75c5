"""What is measured on the image for each row: which maps, at which resolution, over which windows.

The same description and the same code serve training and inference, so they cannot differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.models import encoders, stain
from ml.models.pooling import window_means

# Tiles are cut on multiples of the coarsest stride; rows keep this much more than their largest
# window between them and the tile's border, where zero padding has spoilt the maps.
GRID = 32
GUARD = 32


@dataclass(frozen=True)
class Scale:
    """One resolution.

    Attributes:
        mpp: microns per pixel that the tile is resampled to.
        windows: map name (``stain`` or a map of the encoder) → window sides in µm.
    """

    mpp: float
    windows: dict[str, tuple[float, ...]]

    @property
    def margin(self) -> int:
        """Pixels a tile must reach beyond its rows."""
        widest = max(side for sides in self.windows.values() for side in sides)
        return int(np.ceil(widest / 2 / self.mpp)) + GUARD

    def side(self, step: int) -> int:
        """Pixels of an image around a single row whose corner lies on a grid of `step`."""
        return -(-(2 * self.margin + step) // step) * step


@dataclass(frozen=True)
class FeatureSpec:
    """Image features of a row: a dense encoder and the windows its maps are pooled over."""

    encoder: str
    scales: tuple[Scale, ...]

    @property
    def blocks(self) -> list[tuple[int, str, float, int]]:
        """Consecutive blocks of the feature vector: (scale index, map, side in µm, columns)."""
        maps = encoders.get(self.encoder).maps
        return [
            (index, name, side, len(stain.FEATURES) if name == "stain" else maps[name][1])
            for index, scale in enumerate(self.scales)
            for name, sides in scale.windows.items()
            for side in sides
        ]

    @property
    def dim(self) -> int:
        """Length of the feature vector."""
        return sum(columns for *_, columns in self.blocks)

    def of_scale(self, index: int) -> slice:
        """Columns of one scale."""
        start = sum(count for at, *_, count in self.blocks if at < index)
        return slice(start, start + sum(count for at, *_, count in self.blocks if at == index))

    def columns(self, name: str, side: float | None = None) -> NDArray[np.int64]:
        """Column numbers of one map's blocks (of one window where a side is given)."""
        found: list[int] = []
        start = 0
        for _, block, block_side, count in self.blocks:
            if block == name and side in (None, block_side):
                found.extend(range(start, start + count))
            start += count
        return np.asarray(found, dtype=np.int64)

    def up_to(self, side: float) -> tuple[FeatureSpec, NDArray[np.int64]]:
        """The part of these features with windows of at most `side` µm, and its columns here."""
        scales = tuple(
            Scale(
                scale.mpp, {k: kept for k, v in scale.windows.items() if (kept := _within(v, side))}
            )
            for scale in self.scales
        )
        keep = np.concatenate([np.full(n, of <= side) for *_, of, n in self.blocks])
        narrowed = FeatureSpec(self.encoder, tuple(s for s in scales if s.windows))
        return narrowed, np.flatnonzero(keep)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "encoder": self.encoder,
            "scales": [
                {"mpp": s.mpp, "windows": {k: list(v) for k, v in s.windows.items()}}
                for s in self.scales
            ],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FeatureSpec:
        """The inverse of `as_dict`."""
        return cls(
            data["encoder"],
            tuple(
                Scale(s["mpp"], {k: tuple(v) for k, v in s["windows"].items()})
                for s in data["scales"]
            ),
        )

    def digest(self) -> str:
        """Short hash that names caches of these features."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _within(sides: tuple[float, ...], widest: float) -> tuple[float, ...]:
    return tuple(side for side in sides if side <= widest)


def default_spec(
    row_kind: str, spot_diameter_um: float | None, encoder: str = "efficientnet_lite0"
) -> FeatureSpec:
    """Features of a cell (nucleus 10 µm, cell 28 µm, context 112 µm) or of a spot.

    A spot is pooled over itself and over surroundings of up to eight times its diameter, at 100
    and at 50 pixels per diameter. Of an encoder that has a map of patch tokens these are pooled
    instead, at the resolution that it was trained at, beside the same windows of stain.
    """
    entry = encoders.get(encoder)
    spot = spot_diameter_um or 100.0
    if "tokens" in entry.maps:
        own = (10.0, 28.0, 112.0) if row_kind == "cell" else (spot / 2, spot, 2 * spot, 4 * spot)
        # A token cannot say what is smaller than itself.
        tokens = tuple(side for side in own if side >= entry.patch * entry.mpp)
        return FeatureSpec(encoder, (Scale(entry.mpp, {"stain": own, "tokens": tokens}),))
    if row_kind == "cell":
        windows: dict[str, tuple[float, ...]] = {
            "stain": (10.0, 28.0, 112.0),
            "s2": (10.0,),
            "s4": (10.0, 28.0),
            "s8": (28.0,),
            "s16": (28.0, 112.0),
            "s32": (112.0,),
        }
        return FeatureSpec(encoder, (Scale(0.5, windows),))
    near = (spot, 2 * spot, 4 * spot)
    fine = Scale(
        spot / 100,
        {"stain": (spot / 2, *near), "s8": (spot, 2 * spot), "s16": near, "s32": near},
    )
    wide = (2 * spot, 4 * spot, 8 * spot)
    coarse = Scale(
        spot / 50,
        {"stain": (8 * spot,), "s8": (spot,), "s16": (spot, *wide), "s32": wide},
    )
    return FeatureSpec(encoder, (fine, coarse))


def tile_features(
    pixels: Tensor,
    points: Sequence[Tensor],
    scale: Scale,
    encoder: nn.Module,
    entry: encoders.EncoderEntry,
) -> Tensor:
    """Features of the rows in some tiles of one size, at one scale.

    Args:
        pixels: (n, 3, H, W) uint8, resampled to ``scale.mpp``; H and W multiples of `GRID` for a
            convolutional encoder. On the device to compute on, as is what follows.
        points: of each tile, (k, 2) x, y of its rows in its pixels.
        scale: maps and windows.
        encoder: the dense encoder, in eval mode.
        entry: its registry entry.

    Returns:
        (rows of all tiles, columns of this scale) float32.
    """
    found = _encoded(pixels, scale, encoder, entry)
    columns: list[Tensor] = []
    for name, sides in scale.windows.items():
        stride = _stride(name, entry)
        windows = [side / scale.mpp / stride for side in sides]
        tiles = []
        for number, centres in enumerate(points):
            maps = stain.stain_maps(pixels[number]) if name == "stain" else found[name][number]
            tiles.append(window_means(maps, centres / stride, windows))
        for of_window in zip(*tiles, strict=True):
            columns.append(_features(name, torch.cat(of_window)))
    return torch.cat(columns, dim=1)


def window_features(
    pixels: Tensor,
    points: Tensor,
    scale: Scale,
    encoder: nn.Module,
    entry: encoders.EncoderEntry,
) -> Tensor:
    """The same features of rows that each have an image of their own.

    Args:
        pixels: (n, 3, side, side) uint8 at ``scale.mpp``, `Scale.side` wide.
        points: (n, 2) x, y of the row in its image, at least ``scale.margin`` from its border.

    Returns:
        (n, columns of this scale) float32.
    """
    found = _encoded(pixels, scale, encoder, entry)
    # Images are pooled as one tall one. Where two meet its maps are wrong, further from the rows
    # than any of their windows.
    below = points.clone()
    below[:, 1] += torch.arange(len(pixels), device=points.device) * pixels.shape[2]
    columns: list[Tensor] = []
    for name, sides in scale.windows.items():
        stride = _stride(name, entry)
        tall = _tall(pixels if name == "stain" else found[name])
        maps = stain.stain_maps(tall) if name == "stain" else tall
        windows = [side / scale.mpp / stride for side in sides]
        columns += [_features(name, means) for means in window_means(maps, below / stride, windows)]
    return torch.cat(columns, dim=1)


def _tall(maps: Tensor) -> Tensor:
    """(n, C, h, w) → (C, n × h, w)."""
    return maps.transpose(0, 1).flatten(1, 2)


def _encoded(
    pixels: Tensor, scale: Scale, encoder: nn.Module, entry: encoders.EncoderEntry
) -> dict[str, Tensor]:
    """The encoder's maps, where any is wanted."""
    if not set(scale.windows) - {"stain"}:
        return {}
    with entry.autocast(pixels.device):
        found: dict[str, Tensor] = encoder.maps(entry.normalise(pixels))  # type: ignore[operator]
    return {name: maps.float() for name, maps in found.items()}


def _stride(name: str, entry: encoders.EncoderEntry) -> int:
    return stain.STRIDE if name == "stain" else entry.maps[name][0]


def _features(name: str, means: Tensor) -> Tensor:
    return stain.features_of_means(means) if name == "stain" else means
