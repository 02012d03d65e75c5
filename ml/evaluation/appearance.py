"""Stain, texture and nuclear morphology of each row, from the slide and without any network.

What a pathologist could measure with a ruler; a model that does no better has learned nothing else.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, label
from skimage.filters import threshold_otsu
from torch import Tensor

from ml.evaluation.subject import Floats32, Subject, drawn
from ml.models.stain import FEATURES, densities, features_of_means, stain_maps
from ml.training.corpus import Corpus

PIXELS = 56  # across the row: 0.5 µm per px for a cell's 28 µm
# Rows of a slide that the threshold between nucleus and the rest is taken from.
THRESHOLD_ROWS = 500
# A nucleus that misses the middle of its crop by up to so many px is still the row's.
_REACH = 6
_NUCLEUS = (
    "area", "perimeter", "compactness", "long_axis", "short_axis", "eccentricity", "off_centre",
    "haematoxylin", "haematoxylin_sd", "eosin", "eosin_sd",
    "ring_haematoxylin", "ring_eosin", "nuclear_share", "nuclei", "mean_area",
)  # fmt: skip
NAMES = (*FEATURES, *(f"nucleus_{name}" for name in _NUCLEUS))
_APART = np.zeros((3, 3, 3), bool)  # crops are stacked: none touches the next
_APART[1] = True


def appearance(subject: Subject, corpus: Corpus) -> Floats32:
    """Appearance of the measured rows: (rows, columns), computed once for each corpus.

    The columns of `NAMES`, which are of the row's own crop; where the model has pooled features,
    also stain and texture over all of their windows, so that the surroundings are seen as far as
    the model sees them.
    """
    kept = subject.kept.get(id(corpus))
    if kept is None:
        kept = _own_crops(subject, corpus)
        features = subject.model.config.features
        if features is not None:
            columns = features.columns("stain")
            around = [corpus.raw(rows)[:, columns] for rows in corpus.chunks()]
            kept = np.concatenate([kept, np.concatenate(around)], axis=1)
        subject.kept[id(corpus)] = kept
    return kept


def _own_crops(subject: Subject, corpus: Corpus) -> Floats32:
    """(rows, len(NAMES)), slide by slide."""
    found = np.zeros((len(corpus.measured), len(NAMES)), np.float32)
    section = corpus.section[corpus.measured]
    for number in np.unique(section).tolist():
        own = np.flatnonzero(section == number)
        rows = corpus.measured[own]
        few = subject.crops(corpus, drawn(rows, THRESHOLD_ROWS, subject.seed), 1.0, PIXELS)
        threshold = _threshold(_densities(few)[:, 0])
        done = 0
        for some, crops in subject.crop_batches(corpus, rows, 1.0, PIXELS, 1024):
            found[own[done : done + len(some)]] = appearance_of(crops, threshold)
            done += len(some)
    return found


def appearance_of(crops: NDArray[np.uint8], threshold: float) -> Floats32:
    """Appearance of crops (n, px, px, 3): (n, len(NAMES)).

    Args:
        threshold: haematoxylin density from which on a pixel belongs to a nucleus.
    """
    images = torch.from_numpy(crops).permute(0, 3, 1, 2)
    means = torch.stack([stain_maps(image).mean((1, 2)) for image in images])
    colour = features_of_means(means).numpy()
    return np.concatenate([colour, nuclei(_densities(crops), threshold)], 1).astype(np.float32)


def _densities(crops: NDArray[np.uint8]) -> Floats32:
    """Haematoxylin and eosin densities (n, 2, px, px), smoothed over a pixel."""
    images: Tensor = torch.from_numpy(crops).permute(0, 3, 1, 2)
    found = densities(images)[:, :2].numpy()
    return np.asarray(gaussian_filter(found, (0, 0, 1, 1)), np.float32)


def _threshold(haematoxylin: Floats32) -> float:
    """Otsu's threshold of a slide; a blank one has none that anything reaches."""
    if float(haematoxylin.max() - haematoxylin.min()) < 1e-3:
        return float(haematoxylin.max()) + 1.0
    return float(threshold_otsu(haematoxylin))  # type: ignore[no-untyped-call]


def nuclei(stains: Floats32, threshold: float) -> Floats32:
    """Shape and stain of the nucleus in the middle of each crop, and of the others together.

    Args:
        stains: (n, 2, px, px) haematoxylin and eosin densities.
        threshold: see `appearance_of`.

    Returns:
        (n, 16) float32: lengths in pixels, areas in pixels²; 0 throughout for a crop without a
        nucleus in the middle, but for what describes the whole crop.
    """
    haematoxylin, eosin = stains[:, 0].astype(np.float64), stains[:, 1].astype(np.float64)
    dark = haematoxylin > threshold
    parts, count = label(dark, _APART)
    own = _middle(parts)
    mask = (parts == own[:, None, None]) & (own > 0)[:, None, None]
    area = mask.sum((1, 2)).astype(np.float64)
    there, safe = area > 0, np.maximum(area, 1)
    side = stains.shape[-1]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2

    def mean(values: NDArray[np.float64], of: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.asarray((values * of).sum((1, 2)) / np.maximum(of.sum((1, 2)), 1))

    cx, cy = mean(x, mask), mean(y, mask)
    xx, yy = mean(x * x, mask) - cx**2, mean(y * y, mask) - cy**2
    xy = mean(x * y, mask) - cx * cy
    root = np.sqrt(np.maximum((xx - yy) ** 2 + 4 * xy**2, 0))
    long, short = (np.sqrt(np.maximum(8 * (xx + yy + s * root), 0)) for s in (1, -1))
    inner = binary_erosion(mask, _APART & _cross())
    perimeter = (mask & ~inner).sum((1, 2))
    ring = ~dark
    distinct = np.array([len(np.unique(p)) - (p == 0).any() for p in parts]) if count else 0 * area
    columns = [
        area, perimeter, 4 * np.pi * area / np.maximum(perimeter, 1) ** 2, long, short,
        np.sqrt(np.maximum(1 - (short / np.maximum(long, 1e-6)) ** 2, 0)) * there,
        np.hypot(cx, cy),
        mean(haematoxylin, mask), _deviation(haematoxylin, mask, safe),
        mean(eosin, mask), _deviation(eosin, mask, safe),
        mean(haematoxylin, ring), mean(eosin, ring),
        dark.mean((1, 2)), distinct, dark.sum((1, 2)) / np.maximum(distinct, 1),
    ]  # fmt: skip
    return np.stack(columns, 1).astype(np.float32)


def _cross() -> NDArray[np.bool_]:
    """A pixel and the four beside it, within one crop."""
    found = np.zeros((3, 3, 3), bool)
    found[1, 1], found[1, :, 1] = True, True
    return found


def _deviation(
    values: NDArray[np.float64], mask: NDArray[np.bool_], area: NDArray[np.float64]
) -> NDArray[np.float64]:
    mean = (values * mask).sum((1, 2)) / area
    square = (values**2 * mask).sum((1, 2)) / area
    deviation: NDArray[np.float64] = np.sqrt(np.maximum(square - mean**2, 0))
    return deviation


def _middle(parts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number of the part nearest to the middle of each crop, within `_REACH`; 0 for none."""
    side = parts.shape[-1]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    distance = np.hypot(x, y)
    order = np.argsort(distance, axis=None, kind="stable")
    order = order[distance.ravel()[order] <= _REACH]
    near = parts.reshape(len(parts), -1)[:, order]
    first = (near > 0).argmax(1)
    return np.asarray(near[np.arange(len(parts)), first], np.int64)
