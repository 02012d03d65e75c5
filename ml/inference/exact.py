"""The exact way: every row has an image of its own and a forward pass of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.inference.crops import CELL_PIXELS, CONTEXT_PIXELS, CropSource, by_place
from ml.inference.encoder import Loaded
from ml.inference.features import Block, Pixels, Rows
from ml.inference.memory import images_at_once
from ml.inference.pipeline import entering
from ml.models.batches import CropBatch
from ml.models.features import GRID, FeatureSpec, Scale, window_features
from ml.models.past import PAST

if TYPE_CHECKING:
    from ml.io.slides import SlideReader


def in_blocks(xy: NDArray[np.float32], scales: int, size: int, rows: Rows) -> list[Block]:
    """Blocks of at most `size` of some rows that lie together, for each scale."""
    order = rows[by_place(xy[rows])]
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return [
        Block(scale * len(parts) + number, scale, part)
        for scale in range(scales)
        for number, part in enumerate(parts)
    ]


class WindowForward:
    """Features of a model of features, from an image around each row.

    The same windows as in `SharedForward`, pooled in an image of their own. Its corner lies on the
    grid that the tiles' strides or patches make, so that both differ only by what an encoder sees
    of the rest of a tile.

    Args:
        rows: numbers of the rows to see; all by default.
    """

    def __init__(
        self,
        loaded: Loaded,
        spec: FeatureSpec,
        slide: SlideReader,
        xy: NDArray[np.float32],
        mpp: float,
        rows: Rows | None = None,
    ) -> None:
        self._loaded, self._spec = loaded, spec
        self._slide, self._xy, self._mpp = slide, xy, mpp
        self._rows = np.arange(len(xy)) if rows is None else rows
        self._step = loaded.entry.patch or GRID
        self.device = loaded.device
        self.width, self.dtype = spec.dim, np.float16

    def at_once(self) -> int:
        def counted(scale: Scale) -> int:
            def forward(rows: int) -> None:
                pixels = torch.zeros(rows, 3, side, side, dtype=torch.uint8, device=self.device)
                points = torch.full((rows, 2), side / 2, dtype=torch.float64, device=self.device)
                window_features(pixels, points, scale, self._loaded.module, self._loaded.entry)

            side = scale.side(self._step)
            where = f"encoder {self._loaded.entry.name}"
            return images_at_once(side, self.device, forward, where)

        return min(counted(scale) for scale in self._spec.scales)

    def blocks(self, at_once: int) -> list[Block]:
        return in_blocks(self._xy, len(self._spec.scales), at_once, self._rows)

    def read(self, block: Block) -> Pixels:
        scale = self._spec.scales[block.scale]
        side, zoom = scale.side(self._step), scale.mpp / self._mpp
        points = self._xy[block.rows].astype(np.float64) / zoom
        corners = self._corners(points, scale)
        images = np.empty((len(points), side, side, 3), np.uint8)
        for place, (x, y) in enumerate((corners * zoom).tolist()):
            images[place] = self._slide.region(
                x, y, side * zoom, side * zoom, out_width=side, out_height=side
            )
        pixels = entering(images, self.device).permute(0, 3, 1, 2)
        return Pixels((pixels,), (entering(points - corners, self.device),))

    def _corners(self, points: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
        """Corners of the images of rows at `points`, on the grid that tiles' corners are on."""
        margin, step = scale.margin, self._step
        if self._loaded.entry.patch:
            return np.floor(points / step) * step - margin
        return np.floor((points - margin) / step) * step

    def compute(self, block: Block, pixels: Pixels) -> Tensor:
        scale, loaded = self._spec.scales[block.scale], self._loaded
        return window_features(
            pixels.images[0], pixels.points[0], scale, loaded.module, loaded.entry
        )

    def columns(self, block: Block) -> slice:
        return self._spec.of_scale(block.scale)


class CropForward:
    """Embeddings of a model of crops: those of its members, one beside the other."""

    def __init__(self, model: PAST, source: CropSource) -> None:
        self._model, self._source = model, source
        self.device = model.feature_mean.device
        a = model.config.architecture
        self.width, self.dtype = a.members * a.dim, np.float32

    def at_once(self) -> int:
        def forward(rows: int) -> None:
            images = (
                torch.zeros(rows, side, side, 3, dtype=torch.uint8, device=self.device)
                for side in (CONTEXT_PIXELS, CELL_PIXELS)
            )
            self._embed(CropBatch(*images))

        where = f"encoder {self._model.config.encoder}"
        return images_at_once(CONTEXT_PIXELS, self.device, forward, where)

    def blocks(self, at_once: int) -> list[Block]:
        return in_blocks(self._source.xy, 1, at_once, np.arange(len(self._source)))

    def read(self, block: Block) -> Pixels:
        return Pixels(tuple(self._source.read(block.rows)))

    def compute(self, block: Block, pixels: Pixels) -> Tensor:
        return self._embed(CropBatch(*pixels.images))

    def columns(self, block: Block) -> slice:
        return slice(None)

    def _embed(self, crops: CropBatch) -> Tensor:
        from ml.models import encoders

        with encoders.get(self._model.config.encoder).autocast(self.device):
            each: list[Any] = [member.embed(crops) for member in self._model.networks()]
        return torch.cat(each, dim=1).float()
