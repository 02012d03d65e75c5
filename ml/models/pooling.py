"""Means of feature maps over square windows, at sub-pixel accuracy, for all rows at once."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

# A wider window is read on a map that was halved until the window has at most this many pixels.
WIDEST = 32
ROWS = 2048  # rows at a time; bounds the memory for the windows' pixels and weights


def window_means(maps: Tensor, centres: Tensor, sides: Sequence[float]) -> list[Tensor]:
    """Mean of each map over a square window around each centre.

    The maps are taken as piecewise constant, and pixels at the border of a window count by the part
    of them that it covers, so that a shift of a tenth of a pixel changes the mean by what it
    should. Windows of more than `WIDEST` pixels are read on a coarser map in the same way.

    Args:
        maps: (C, H, W).
        centres: (n, 2) x, y in map pixels, (0, 0) being the corner of the first pixel.
        sides: sides of the windows in map pixels; windows are cut off at the border of the maps.

    Returns:
        for each side, (n, C) float32.
    """
    height, width = maps.shape[1:]
    found: list[Tensor] = []
    level, factor = maps, 1
    for side in sorted(sides):
        while side / factor > WIDEST:
            level, factor = functional.avg_pool2d(level[None], 2, ceil_mode=True)[0], 2 * factor
        table = level.permute(1, 2, 0).flatten(0, 1).contiguous()
        means = []
        for points in torch.split(centres.double() / factor, ROWS):
            x, across = _overlap(points[:, 0], side / factor, width / factor)
            y, down = _overlap(points[:, 1], side / factor, height / factor)
            pixels = (y * level.shape[2])[:, :, None] + x[:, None, :]
            weights = (down[:, :, None] * across[:, None, :]).flatten(1).to(table.dtype)
            means.append(
                functional.embedding_bag(
                    pixels.flatten(1), table, per_sample_weights=weights, mode="sum"
                )
            )
        found.append(torch.cat(means) if means else table.new_zeros(0, len(maps)))
    order = {side: i for i, side in enumerate(sorted(sides))}
    return [found[order[side]] for side in sides]


def _overlap(centre: Tensor, side: float, size: float) -> tuple[Tensor, Tensor]:
    """Pixels that a window reaches on one axis, and the share of the window that each covers.

    A centre outside the axis, 0..size, is taken for its end.

    Returns:
        (n, k) int64 pixels and (n, k) float64 shares that sum to 1.
    """
    at = centre.clamp(0, size)
    start, end = (at - side / 2).clamp_min(0), (at + side / 2).clamp_max(size)
    pixel = start.floor()[:, None] + torch.arange(ceil(side) + 1, device=centre.device)
    cover = torch.minimum(pixel + 1, end[:, None]) - torch.maximum(pixel, start[:, None])
    cover = cover.clamp_min(0)
    share = cover / cover.sum(1, keepdim=True).clamp_min(1e-9)
    return pixel.clamp(0, max(ceil(size) - 1, 0)).long(), share
