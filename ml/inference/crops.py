"""Two crops of each row at fixed physical size, for encoders that are trained on crops."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ml.models.batches import CropBatch

if TYPE_CHECKING:
    from ml.io.slides import SlideReader

CELL_UM, CONTEXT_UM = 28.0, 112.0
CONTEXT_PIXELS, CELL_PIXELS = 224, 112
# Side in level-0 px of the squares that rows are read in the order of.
_PLACE = 512
# Pinned memory is copied to a GPU while the GPU computes.
PINNED = torch.cuda.is_available()


def crop_sides(row_kind: str, spot_diameter_um: float | None) -> tuple[float, float]:
    """Sides in µm of the context and of the row itself; a spot's context is twice its diameter."""
    if row_kind == "cell":
        return CONTEXT_UM, CELL_UM
    spot = spot_diameter_um or 100.0
    return 2 * spot, spot


def crop(
    slide: SlideReader, x: float, y: float, side_um: float, mpp: float, pixels: int = CELL_PIXELS
) -> NDArray[np.uint8]:
    """A square of the slide centred on (x, y), mirrored beyond the border.

    Args:
        x, y: centre in level-0 pixels.
        side_um: side of the square in µm.
        mpp: microns per level-0 pixel.
        pixels: side of the result.

    Returns:
        (pixels, pixels, 3) uint8.
    """
    side = side_um / mpp
    return slide.region(x - side / 2, y - side / 2, side, side, out_width=pixels, out_height=pixels)


def by_place(xy: NDArray[np.float32]) -> NDArray[np.int64]:
    """Order of rows (n, 2) in level-0 pixels in which those that lie together follow each other."""
    place = np.floor(xy / _PLACE)
    return np.lexsort((xy[:, 0], place[:, 0], place[:, 1]))


class CropSource:
    """Crops of a slide's rows, cut out of it whenever they are asked for.

    Args:
        slide: open slide.
        xy: (n, 2) positions in level-0 pixels.
        mpp: microns per level-0 pixel.
        sides_um: sides of the context and of the row itself, see `crop_sides`.
    """

    def __init__(
        self,
        slide: SlideReader,
        xy: NDArray[np.float32],
        mpp: float,
        sides_um: tuple[float, float],
    ) -> None:
        self.slide, self.xy, self.mpp, self.sides_um = slide, xy, mpp, sides_um
        self._threads: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.xy)

    def read(self, rows: NDArray[np.int64]) -> CropBatch:
        """Crops of some rows, in their order, on the CPU.

        They are read by threads in the order of their place on the slide, so that neighbours share
        decoded tiles.
        """
        context, cell = (
            torch.empty(len(rows), side, side, 3, dtype=torch.uint8, pin_memory=PINNED)
            for side in (CONTEXT_PIXELS, CELL_PIXELS)
        )
        into = ((context.numpy(), CONTEXT_PIXELS), (cell.numpy(), CELL_PIXELS))

        def fill(place: int) -> None:
            x, y = (float(v) for v in self.xy[rows[place]])
            for (images, pixels), side in zip(into, self.sides_um, strict=True):
                images[place] = crop(self.slide, x, y, side, self.mpp, pixels)

        self._threads = self._threads or ThreadPoolExecutor(os.cpu_count() or 1)
        for _ in self._threads.map(fill, by_place(self.xy[rows]).tolist()):
            pass
        return CropBatch(context, cell)
