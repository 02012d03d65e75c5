"""The shared forward: the encoder over tiles, its maps pooled under each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.inference.encoder import Loaded
from ml.inference.features import Block, Pixels, Rows, Tile
from ml.inference.memory import images_at_once
from ml.inference.pipeline import entering
from ml.models.features import GRID, FeatureSpec, Scale, tile_features

if TYPE_CHECKING:
    from ml.io.slides import SlideReader

# Side in px of the square of rows that one tile serves; the tile itself is wider by the margins.
# A transformer attends to all of a tile, which costs by the square of its size.
CORE, TRANSFORMER_CORE = 1024, 448


def tiles(
    xy: NDArray[np.float32], mpp: float, scale: Scale, core: int = CORE, patch: int = 0
) -> Iterator[tuple[Rows, Tile]]:
    """Tiles that hold rows; rows keep their margin from a tile's border.

    Args:
        xy: (n, 2) positions in level-0 pixels.
        mpp: microns per level-0 pixel.
        scale: resolution and windows.
        core: side in px at ``scale.mpp`` of the grid that rows are dealt to.
        patch: 0 cuts each tile down to the rows in it and their margins; for a transformer, side
            of its patches, all tiles are of one size and made of whole patches.

    Yields:
        row numbers and the tile (x, y, width, height) in px at ``scale.mpp``.
    """
    points = xy.astype(np.float64) * (mpp / scale.mpp)
    cell = np.floor(points / core).astype(np.int64)
    order = np.lexsort((cell[:, 0], cell[:, 1]))
    ordered = cell[order]
    starts = np.flatnonzero(np.any(np.diff(ordered, axis=0, prepend=-(2**62)), axis=1))
    for rows in np.split(order, starts[1:]):
        if patch:
            x, y = (cell[rows[0]] * core - scale.margin).tolist()
            width = height = -(-(core + 2 * scale.margin) // patch) * patch
        else:
            low = np.floor((points[rows].min(0) - scale.margin) / GRID).astype(int) * GRID
            high = np.ceil((points[rows].max(0) + scale.margin) / GRID).astype(int) * GRID
            (x, y), (width, height) = low.tolist(), (high - low).tolist()
        yield np.sort(rows), (x, y, width, height)


class SharedForward:
    """Features of a slide's rows from tiles; see `ml.inference.features.Forward`.

    Args:
        finish: makes what is kept of a row of its features; the features themselves by default.
        width: numbers that are kept of each row, where `finish` is given.
    """

    def __init__(
        self,
        loaded: Loaded,
        spec: FeatureSpec,
        slide: SlideReader,
        xy: NDArray[np.float32],
        mpp: float,
        finish: Callable[[Tensor], Tensor] | None = None,
        width: int | None = None,
    ) -> None:
        self._loaded, self._spec, self._finish = loaded, spec, finish
        self._slide, self._xy, self._mpp = slide, xy, mpp
        self.device = loaded.device
        self.width = spec.dim if width is None else width
        self.dtype: type[np.floating[Any]] = np.float32 if finish else np.float16

    def at_once(self) -> int:
        """Tiles of a transformer are of one size and go together; others go one by one."""
        found = [self._tiles_at_once(scale) for scale in self._spec.scales]
        return min(found) if self._loaded.entry.patch else 1

    def _tiles_at_once(self, scale: Scale) -> int:
        entry = self._loaded.entry
        side = (TRANSFORMER_CORE if entry.patch else CORE) + 2 * scale.margin
        side = -(-side // (entry.patch or GRID)) * (entry.patch or GRID)

        def forward(tiles: int) -> None:
            pixels = torch.zeros(tiles, 3, side, side, dtype=torch.uint8, device=self.device)
            middle = torch.full((1, 2), side / 2, device=self.device, dtype=torch.float64)
            tile_features(pixels, [middle] * tiles, scale, self._loaded.module, entry)

        return images_at_once(side, self.device, forward, f"encoder {entry.name}")

    def blocks(self, at_once: int) -> list[Block]:
        patch = self._loaded.entry.patch
        core = TRANSFORMER_CORE if patch else CORE
        found: list[Block] = []
        for index, scale in enumerate(self._spec.scales):
            cut = list(tiles(self._xy, self._mpp, scale, core, patch))
            for start in range(0, len(cut), at_once):
                some = cut[start : start + at_once]
                rows = np.concatenate([rows for rows, _ in some])
                which = tuple((tile, len(rows)) for rows, tile in some)
                found.append(Block(len(found), index, rows, which))
        return found

    def read(self, block: Block) -> Pixels:
        scale = self._spec.scales[block.scale]
        zoom = scale.mpp / self._mpp
        images = np.stack(
            [
                self._slide.region(
                    x * zoom, y * zoom, width * zoom, height * zoom,
                    out_width=width, out_height=height,
                )
                for (x, y, width, height), _ in block.tiles
            ]
        )  # fmt: skip
        centres, points, first = self._xy[block.rows].astype(np.float64) / zoom, [], 0
        for (x, y, *_), count in block.tiles:
            points.append(entering(centres[first : first + count] - [x, y], self.device))
            first += count
        return Pixels((entering(images, self.device).permute(0, 3, 1, 2),), tuple(points))

    def compute(self, block: Block, pixels: Pixels) -> Tensor:
        scale = self._spec.scales[block.scale]
        values = tile_features(
            pixels.images[0], pixels.points, scale, self._loaded.module, self._loaded.entry
        )
        return values if self._finish is None else self._finish(values)

    def columns(self, block: Block) -> slice:
        return slice(None) if self._finish else self._spec.of_scale(block.scale)
