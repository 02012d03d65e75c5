"""Where there is tissue on an H&E slide, at low magnification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    from ml.io.slides import SlideReader

MPP = 8.0
# Pixels that are coloured or dark: white glass has a saturation near 0 and full brightness.
SATURATION, BRIGHTNESS = 0.06, 0.90


def overview(slide: SlideReader, mpp: float) -> NDArray[np.uint8]:
    """The whole slide (H, W, 3) RGB at `MPP` µm per pixel.

    Args:
        slide: open slide.
        mpp: microns per level-0 pixel.
    """
    width = max(1, round(slide.info.width * mpp / MPP))
    height = max(1, round(slide.info.height * mpp / MPP))
    return slide.region(
        0, 0, slide.info.width, slide.info.height, out_width=width, out_height=height
    )


def tissue_mask(slide: SlideReader, mpp: float) -> NDArray[np.bool_]:
    """Tissue of a slide (H, W) at `MPP` µm per pixel; pixel (0, 0) starts at the slide's corner."""
    return tissue_of(overview(slide, mpp))


def tissue_of(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tissue in an `overview`: (H, W) bool. Specks and holes are closed."""
    image = pixels.astype(np.float32) / 255
    saturation = image.max(2) - image.min(2)
    tissue = (saturation > SATURATION) & (image.mean(2) < BRIGHTNESS) | (image.mean(2) < 0.6)
    closed = ndimage.binary_closing(np.pad(tissue, 3, mode="edge"), iterations=3)[3:-3, 3:-3]
    found: NDArray[np.bool_] = ndimage.binary_opening(closed, iterations=1)
    return found


def spot_grid(slide: SlideReader, mpp: float, pitch_um: float) -> NDArray[np.float32]:
    """Square grid of spots over the tissue.

    Args:
        pitch_um: distance of neighbouring spots.

    Returns:
        (n, 2) float32 level-0 pixels, row by row; spots whose centre is on tissue.
    """
    mask = tissue_mask(slide, mpp)
    pitch = pitch_um / mpp
    xs = np.arange(pitch / 2, slide.info.width, pitch)
    ys = np.arange(pitch / 2, slide.info.height, pitch)
    x, y = (v.ravel() for v in np.meshgrid(xs, ys))
    column = np.minimum((x * mpp / MPP).astype(int), mask.shape[1] - 1)
    row = np.minimum((y * mpp / MPP).astype(int), mask.shape[0] - 1)
    on = mask[row, column]
    return np.stack([x[on], y[on]], axis=1).astype(np.float32)
