"""Means of feature maps over square windows, at sub-pixel accuracy, for all rows at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def window_means(maps: Tensor, centres: Tensor, sides: Sequence[float]) -> list[Tensor]:
    """Mean of each map over a square window around each centre.

    The maps are taken as piecewise constant; the integral image is read at fractional corners, so
    that a shift of a tenth of a pixel changes the mean by what it should. One pass over the maps
    serves any number of rows and windows.

    Args:
        maps: (C, H, W).
        centres: (n, 2) x, y in map pixels, (0, 0) being the corner of the first pixel.
        sides: sides of the windows in map pixels; windows are cut off at the border of the maps.

    Returns:
        for each side, (n, C) float32.
    """
    channels, height, width = maps.shape
    shift = maps.mean(dim=(1, 2), keepdim=True, dtype=torch.float64)
    table = functional.pad((maps.double() - shift).cumsum(1).cumsum(2), (1, 0, 1, 0))
    flat = table.reshape(channels, -1)
    centres = centres.double()

    def integral(x: Tensor, y: Tensor) -> Tensor:
        x0, y0 = x.floor().clamp(0, width - 1), y.floor().clamp(0, height - 1)
        fx, fy = x - x0, y - y0
        corner = (y0 * (width + 1) + x0).long()
        a, b = flat[:, corner], flat[:, corner + 1]
        c, d = flat[:, corner + width + 1], flat[:, corner + width + 2]
        return (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy

    def mean(side: float) -> Tensor:
        left, right = ((centres[:, 0] + d).clamp(0, width) for d in (-side / 2, side / 2))
        top, bottom = ((centres[:, 1] + d).clamp(0, height) for d in (-side / 2, side / 2))
        total = (
            integral(right, bottom)
            - integral(left, bottom)
            - integral(right, top)
            + integral(left, top)
        )
        area = ((right - left) * (bottom - top)).clamp_min(1e-9)
        return (total / area + shift[:, 0]).T.float()

    return [mean(side) for side in sides]
