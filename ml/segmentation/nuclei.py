"""Classical nucleus detection on H&E: haematoxylin, local threshold, distance peaks.

Stains are separated after Ruifrok and Johnston (2001); touching nuclei are split at the maxima of
the distance transform joined with the smoothed stain, as in seeded watersheds. It gives centres,
not outlines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ml.inference.features import stop_if_asked
from ml.models.stain import densities
from ml.segmentation.tissue import MPP as TISSUE_MPP
from ml.segmentation.tissue import tissue_mask

if TYPE_CHECKING:
    from ml.io.slides import SlideReader
    from ml.report import Report

MPP = 0.5  # resolution that nuclei are looked for at
TILE = 1024  # px; a nucleus belongs to the tile its centre lies in, so seams count none twice
MARGIN = 64  # px that a tile sees beyond its border
SMOOTH_UM = 0.75
BACKGROUND_UM = 25.0  # side of the window of the local threshold
SEPARATION_UM = 4.0  # centres nearer than this are one nucleus
MIN_AREA_UM2 = 10.0
WORKERS = 4  # tiles at a time, at most
CONTRAST = 0.12  # optical density above the local mean


def nuclei_of_tile(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Centres of nuclei.

    Args:
        image: (H, W, 3) H&E at `MPP` µm per pixel.

    Returns:
        (n, 2) float64 x, y in pixels of the image.
    """
    pixels = torch.tensor(image).permute(2, 0, 1)
    stain = ndimage.gaussian_filter(densities(pixels)[0].numpy(), SMOOTH_UM / MPP)
    local = ndimage.uniform_filter(stain, round(BACKGROUND_UM / MPP))
    foreground = _filled(ndimage.binary_opening(stain > local + CONTRAST, iterations=1))
    depth = ndimage.distance_transform_edt(foreground).astype(np.float32)
    # Where shapes merge, the stain still has a summit in each nucleus.
    height = ndimage.gaussian_filter(depth, 1.0) * MPP + 2.0 * ndimage.gaussian_filter(stain, 2.0)
    reach = round(SEPARATION_UM / MPP)
    summit = (height == ndimage.maximum_filter(height, size=reach + 1)) & foreground
    smallest = np.sqrt(MIN_AREA_UM2 / np.pi) / MPP
    labels, count = ndimage.label(summit & (depth >= 0.7 * smallest), np.ones((3, 3)))
    if not count:
        return np.zeros((0, 2))
    y, x = np.nonzero(labels)
    of = labels[y, x] - 1
    size = np.bincount(of, minlength=count)
    centres = np.stack([np.bincount(of, v, count) / size for v in (x, y)], axis=1)
    return _apart(centres + 0.5, height, SEPARATION_UM / MPP)


def _filled(shapes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The shapes without holes: background that does not reach the image's border is filled."""
    background, count = ndimage.label(~shapes)
    outside = np.zeros(count + 1, bool)
    for border in (background[0], background[-1], background[:, 0], background[:, -1]):
        outside[border] = True
    outside[0] = False
    filled: NDArray[np.bool_] = ~outside[background]
    return filled


def _apart(
    centres: NDArray[np.float64], height: NDArray[np.float32], distance: float
) -> NDArray[np.float64]:
    """Drop the lower of two summits that lie nearer than the distance."""
    from scipy.spatial import cKDTree

    value = height[centres[:, 1].astype(int), centres[:, 0].astype(int)]
    kept = np.ones(len(centres), bool)
    for a, b in cKDTree(centres).query_pairs(distance, output_type="ndarray"):
        if kept[a] and kept[b]:
            kept[b if value[a] >= value[b] else a] = False
    return centres[kept]


def _tiles(slide: SlideReader, mpp: float) -> Iterator[tuple[int, int]]:
    """Corners in px at `MPP` of the tiles that hold tissue."""
    mask = tissue_mask(slide, mpp)
    step = TILE * MPP / TISSUE_MPP
    for y in range(0, int(np.ceil(slide.info.height * mpp / MPP)), TILE):
        for x in range(0, int(np.ceil(slide.info.width * mpp / MPP)), TILE):
            top, left = int(y * MPP / TISSUE_MPP), int(x * MPP / TISSUE_MPP)
            if mask[top : top + int(step) + 1, left : left + int(step) + 1].any():
                yield x, y


def detect_nuclei(slide: SlideReader, mpp: float, report: Report) -> NDArray[np.float32]:
    """Centres of all nuclei on the tissue of a slide.

    Tiles are read with a margin and keep the nuclei whose centre lies in them, so memory does not
    grow with the slide and a nucleus on a seam is found once. A few tiles are worked on at a time.

    Args:
        slide: open slide, H&E.
        mpp: microns per level-0 pixel.
        report: told of progress, asked whether to stop.

    Returns:
        (n, 2) float32 x, y in level-0 pixels, tile by tile.
    """
    zoom = MPP / mpp
    corners = list(_tiles(slide, mpp))
    right, bottom = np.ceil(np.array([slide.info.width, slide.info.height]) / zoom).astype(int)

    def centres_in(corner: tuple[int, int]) -> NDArray[np.float32]:
        stop_if_asked(report)
        x, y = corner
        # Filters mirror an image at its border, as the slide would be read beyond its own.
        x0, y0 = max(x - MARGIN, 0), max(y - MARGIN, 0)
        width, height = min(x + TILE + MARGIN, right) - x0, min(y + TILE + MARGIN, bottom) - y0
        image = slide.region(
            x0 * zoom, y0 * zoom, width * zoom, height * zoom, out_width=width, out_height=height
        )
        centres = nuclei_of_tile(image) + np.array([x0, y0])
        inside = np.all((centres >= (x, y)) & (centres < (x + TILE, y + TILE)), axis=1)
        level0 = centres[inside] * zoom
        on = (level0[:, 0] < slide.info.width) & (level0[:, 1] < slide.info.height)
        kept: NDArray[np.float32] = level0[on].astype(np.float32)
        return kept

    found: list[NDArray[np.float32]] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, WORKERS)) as pool:
        try:
            for centres in pool.map(centres_in, corners):
                found.append(centres)
                report.progress(len(found) / len(corners))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return np.concatenate(found) if found else np.zeros((0, 2), np.float32)
