"""Colour, stain and texture maps of H&E.

Haematoxylin, eosin and residual are optical densities separated with the stain vectors of
Ruifrok and Johnston (Anal Quant Cytol Histol 2001;23:291).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

_STAINS = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_UNMIX = torch.linalg.inv(_STAINS / _STAINS.norm(dim=1, keepdim=True))

STRIDE = 2
# Rows of pixels worked on at a time, and how far beyond them smoothing and edges look.
STRIP, _REACH = 128, 2
# A pixel of these optical densities is taken for tissue, or for a nucleus, in the share features.
TISSUE_DENSITY = 0.15
NUCLEAR_DENSITY = 0.35

_MEANS = ("red", "green", "blue", "haematoxylin", "eosin", "residual", "edges", "grain")
_SHARES = ("saturation", "tissue", "nuclear")
FEATURES = (
    *(f"{name}_mean" for name in _MEANS),
    *(f"{name}_sd" for name in _MEANS),
    *_SHARES,
)
N_MAPS = 2 * len(_MEANS) + len(_SHARES)


@functools.cache
def _unmix(device: torch.device) -> Tensor:
    found: Tensor = _UNMIX.to(device)
    return found


def densities(image: Tensor) -> Tensor:
    """Haematoxylin, eosin and residual density.

    Args:
        image: (..., 3, H, W) with values 0..255.

    Returns:
        (..., 3, H, W) float32 optical densities (natural logarithm).
    """
    density = -torch.log((image.float() + 1.0) / 256.0)
    return torch.einsum("...chw,cs->...shw", density, _unmix(image.device))


def stain_maps(image: Tensor) -> Tensor:
    """Maps whose window means give `FEATURES` through `features_of_means`.

    Args:
        image: (3, H, W) with values 0..255, H and W even.

    Returns:
        (N_MAPS, H / 2, W / 2) float32: values, their squares, then shares; averaged over 2×2
        pixels so that window means are those at full resolution.
    """
    _, height, width = image.shape
    image = image.contiguous()
    maps = torch.empty(N_MAPS, height // STRIDE, width // STRIDE, device=image.device)
    # Strip by strip, since what lies between the image and the maps is ten times their size.
    for top in range(0, height, STRIP):
        bottom = min(top + STRIP, height)
        maps[:, top // STRIDE : bottom // STRIDE] = _strip(image, top, bottom)
    return maps


def _strip(image: Tensor, top: int, bottom: int) -> Tensor:
    """`stain_maps` of the rows top..bottom of the image."""
    above = max(top - _REACH, 0)
    seen = image[:, above : bottom + _REACH].float() / 255.0
    own = slice(top - above, bottom - above)
    colour = seen[:, own]
    grey = seen.mean(0, keepdim=True)
    smooth = functional.avg_pool2d(grey[None], 5, 1, 2, count_include_pad=False)[0]
    dx = functional.pad(grey[..., 1:] - grey[..., :-1], (0, 1, 0, 0))[:, own]
    dy = functional.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1))[:, own]
    stains = densities(image[:, top:bottom])
    grey = grey[:, own]
    edges = (dx.square() + dy.square()).sqrt()
    values = torch.cat([colour, stains, edges, (grey - smooth[:, own]).abs()])
    saturation = colour.amax(0) - colour.amin(0)
    tissue = (-torch.log(grey[0] + 1 / 256) > TISSUE_DENSITY).float()
    nuclear = (stains[0] > NUCLEAR_DENSITY).float()
    parts = (values, values.square(), torch.stack([saturation, tissue, nuclear]))
    return torch.cat([functional.avg_pool2d(part[None], STRIDE)[0] for part in parts])


def features_of_means(means: Tensor) -> Tensor:
    """Window means of `stain_maps` (n, N_MAPS) → features (n, len(FEATURES))."""
    count = len(_MEANS)
    mean, square, shares = means[:, :count], means[:, count : 2 * count], means[:, 2 * count :]
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    return torch.cat([mean, deviation, shares], dim=1)
