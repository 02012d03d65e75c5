"""Whether two slides show the same tissue: copies, rescans, and cut-outs that overlap.

Hashes tell equal files only. Here the texture of two overviews is laid over each other in all
places and eight orientations, and correlated where both have tissue (Padfield, IEEE Trans Image
Process 2012;21:2706). Local mean and contrast are taken out first, so that stain, scanner and
exposure make no difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ml.segmentation.tissue import overview, tissue_of

if TYPE_CHECKING:
    from ml.io.slides import SlideReader

Floats = NDArray[np.float32]
# Correlation from which on two slides show the same tissue: 2,400 pairs of drawn slides reach 0.34
# at most, copies that are stained, turned or compressed differently 0.9 and more, cut-outs that
# overlap by half 0.7.
ALIKE = 0.5
# Of one patient's sections some follow each other in the block: a pair of her2st reaches 0.57.
ALIKE_OF_ONE_PATIENT = 0.65
# Pictures lie over each other in at least this share of the smaller one's tissue …
LEAST_OVERLAP = 0.25
# … and in so many pixels (0.1 mm² at the finest scale), below which any two textures correlate.
LEAST_PIXELS = 400
# Pixels that mean and contrast are local to.
_LOCAL = 4.0
# A pair is compared at the coarsest scale at which the smaller picture has this side.
_SIDE = 72
# Of a deviation, in a picture that is kept in a file.
_STEPS = 32


@dataclass(frozen=True)
class Picture:
    """A slide's texture at scales of 2, 4, 8 … times `ml.segmentation.tissue.MPP`.

    Attributes:
        code: of the slide.
        scales: texture (h, w), about 1 in deviation and 0 outside of the tissue, and the tissue
            (h, w) as 0 or 1.
    """

    code: str
    scales: tuple[tuple[Floats, Floats], ...]

    @classmethod
    def of(cls, code: str, slide: SlideReader, mpp: float) -> Picture:
        """Of a slide of `mpp` microns per level-0 pixel."""
        return cls.of_overview(code, overview(slide, mpp))

    @classmethod
    def of_overview(cls, code: str, pixels: NDArray[np.uint8]) -> Picture:
        """Of RGB pixels (H, W, 3) at ``MPP`` µm."""
        grey, tissue = pixels.mean(2, dtype=np.float32), tissue_of(pixels).astype(np.float32)
        scales: list[tuple[Floats, Floats]] = []
        while not scales or min(grey.shape) >= 2 * _SIDE:
            grey, tissue = _halved(grey), _halved(tissue)
            scales.append(_texture(grey, (tissue > 0.5).astype(np.float32)))
        return cls(code, tuple(scales))

    def save(self, path: Path) -> None:
        """Writes what `load` reads, as 8-bit textures."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for number, (texture, tissue) in enumerate(self.scales):
            steps = np.clip(np.round(texture * _STEPS), -127, 127)
            arrays |= {f"texture{number}": steps.astype(np.int8)}
            arrays |= {f"tissue{number}": tissue.astype(np.uint8)}
        with path.open("wb") as file:
            np.savez_compressed(file, code=np.array(self.code), **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Picture:
        """A picture that `save` wrote."""
        with np.load(path, allow_pickle=False) as kept:
            count = sum(name.startswith("texture") for name in kept.files)
            scales = [
                ((kept[f"texture{n}"] / _STEPS).astype(np.float32),
                 kept[f"tissue{n}"].astype(np.float32))
                for n in range(count)
            ]  # fmt: skip
            return cls(str(kept["code"]), tuple(scales))

    @property
    def too_small(self) -> bool:
        """Whether there is too little tissue to be told from other tissue."""
        return bool(self.scales[0][1].sum() < LEAST_PIXELS)

    @property
    def side(self) -> int:
        """The shorter side in pixels of the finest scale."""
        height, width = self.scales[0][0].shape
        return int(min(height, width))


def similarity(first: Picture, second: Picture) -> float:
    """The highest correlation of two pictures over all places and orientations, −1 … 1.

    0 where they are too small to lie over each other in `LEAST_PIXELS`.
    """
    smaller = min(first.side, second.side)
    scale = max(0, int(np.log2(max(smaller / _SIDE, 1))))
    scale = min(scale, len(first.scales) - 1, len(second.scales) - 1)
    ours, theirs = first.scales[scale], second.scales[scale]
    longest = max(theirs[0].shape)
    shape = tuple(fft.next_fast_len(side + longest - 1, real=True) for side in ours[0].shape)
    fixed = [_transformed(part, shape) for part in _parts(*ours)]
    least = max(LEAST_OVERLAP * min(ours[1].sum(), theirs[1].sum()), LEAST_PIXELS)
    return max(
        _highest(
            fixed, [_transformed(part, shape).conj() for part in _parts(*turned)], shape, least
        )
        for turned in _orientations(*theirs)
    )


def look_alikes(
    held_out: Sequence[Picture], others: Sequence[Picture], limit: float = ALIKE
) -> tuple[list[tuple[str, str, float]], float]:
    """Slides of two parts that show the same tissue.

    Returns:
        held-out slide, other slide, and their similarity, of pairs from the limit on; and the
        highest similarity of all pairs.
    """
    found, highest = [], 0.0
    for one, other in itertools.product(held_out, others):
        value = similarity(one, other)
        highest = max(highest, value)
        if value >= limit:
            found.append((one.code, other.code, value))
    return found, highest


def _halved(image: Floats) -> Floats:
    """Means of 2 × 2 pixels; an odd last row or column is left out, one alone stays."""
    for axis in (0, 1):
        if image.shape[axis] > 1:
            even = image.shape[axis] // 2 * 2
            pairs = np.split(image.take(range(even), axis), even // 2, axis)
            image = np.concatenate([pair.mean(axis, keepdims=True) for pair in pairs], axis)
    return image


def _texture(grey: Floats, tissue: Floats) -> tuple[Floats, Floats]:
    """What is left of a picture without its local mean and contrast, and its tissue."""
    weight = ndimage.gaussian_filter(tissue, _LOCAL) + 1e-6

    def local(values: Floats) -> Floats:
        return np.asarray(ndimage.gaussian_filter(values * tissue, _LOCAL) / weight, np.float32)

    centred = (grey - local(grey)) * tissue
    contrast = np.sqrt(local(centred * centred)) + 1.0
    return np.asarray(centred / contrast, np.float32), tissue


def _parts(texture: Floats, tissue: Floats) -> tuple[Floats, Floats, Floats]:
    return texture, texture * texture, tissue


def _transformed(image: Floats, shape: tuple[int, ...]) -> NDArray[np.complex64]:
    return np.asarray(fft.rfft2(image, shape, workers=-1))


def _orientations(texture: Floats, tissue: Floats) -> Iterator[tuple[Floats, Floats]]:
    for turns, mirrored in itertools.product(range(4), (False, True)):
        both = (np.rot90(image, turns) for image in (texture, tissue))
        one, other = (np.fliplr(image) if mirrored else image for image in both)
        yield np.ascontiguousarray(one), np.ascontiguousarray(other)


def _highest(
    fixed: list[NDArray[np.complex64]],
    moving: list[NDArray[np.complex64]],
    shape: tuple[int, ...],
    least: float,
) -> float:
    """The highest correlation over shifts at which at least so many pixels lie on each other."""

    def over(a: int, b: int) -> Floats:
        return np.asarray(fft.irfft2(fixed[a] * moving[b], shape, workers=-1), np.float32)

    together = over(2, 2)
    enough = together >= least
    if not enough.any():
        return 0.0
    product, first, second = (over(*pair)[enough] for pair in ((0, 0), (1, 2), (2, 1)))
    return float((product / np.sqrt(np.maximum(first, 1) * np.maximum(second, 1))).max())
