"""What is measured on the image for each row: which maps, at which resolution, over which windows.

The same description and the same code serve training and inference, so they cannot differ.
"""

from __future__ import annotations

import hashlib
import json
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


def default_spec(row_kind: str, spot_diameter_um: float | None) -> FeatureSpec:
    """Features of a cell (nucleus 10 µm, cell 28 µm, context 112 µm) or of a spot.

    A spot is pooled over itself and over surroundings of up to eight times its diameter, at 100
    and at 50 pixels per diameter.
    """
    if row_kind == "cell":
        windows: dict[str, tuple[float, ...]] = {
            "stain": (10.0, 28.0, 112.0),
            "s2": (10.0,),
            "s4": (10.0, 28.0),
            "s8": (28.0,),
            "s16": (28.0, 112.0),
            "s32": (112.0,),
        }
        return FeatureSpec("efficientnet_lite0", (Scale(0.5, windows),))
    spot = spot_diameter_um or 100.0
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
    return FeatureSpec("efficientnet_lite0", (fine, coarse))


def tile_features(
    image: NDArray[np.uint8],
    centres: NDArray[np.float64],
    scale: Scale,
    encoder: nn.Module,
    entry: encoders.EncoderEntry,
    device: torch.device,
) -> NDArray[np.float32]:
    """Features of the rows in one tile at one scale.

    Args:
        image: (H, W, 3), H and W multiples of `GRID`, resampled to ``scale.mpp``.
        centres: (n, 2) x, y in pixels of this image.
        scale: maps and windows.
        encoder: the dense encoder, in eval mode on `device`.
        entry: its registry entry.
        device: where to compute.

    Returns:
        (n, columns of this scale) float32.
    """
    pixels = torch.tensor(image, device=device).permute(2, 0, 1)
    points = torch.from_numpy(centres).to(device)
    wanted = set(scale.windows)
    found: dict[str, Tensor] = {}
    if wanted - {"stain"}:
        found = encoder.maps(entry.normalise(pixels[None]))  # type: ignore[operator]
    columns: list[Tensor] = []
    for name, sides in scale.windows.items():
        if name == "stain":
            maps, stride = stain.stain_maps(pixels), stain.STRIDE
        else:
            maps, stride = found[name], entry.maps[name][0]
        for means in window_means(maps, points / stride, [w / scale.mpp / stride for w in sides]):
            columns.append(stain.features_of_means(means) if name == "stain" else means)
    return torch.cat(columns, dim=1).cpu().numpy()
