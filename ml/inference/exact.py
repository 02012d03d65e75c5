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
from ml.models.features import FeatureSpec, Scale, centre_features
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

    The same windows as in `SharedForward`, pooled in the middle of an image of their own, so that
    they differ by what an encoder sees of the rest of a tile.

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
        self.device = loaded.device
        self.width, self.dtype = spec.dim, np.float16

    def at_once(self) -> int:
        def counted(scale: Scale) -> int:
            def forward(rows: int) -> None:
                shape = (rows, 3, scale.side, scale.side)
                pixels = torch.zeros(shape, dtype=torch.uint8, device=self.device)
                centre_features(pixels, scale, self._loaded.module, self._loaded.entry)

            where = f"encoder {self._loaded.entry.name}"
            return images_at_once(scale.side, self.device, forward, where)

        return min(counted(scale) for scale in self._spec.scales)

    def blocks(self, at_once: int) -> list[Block]:
        return in_blocks(self._xy, len(self._spec.scales), at_once, self._rows)

    def read(self, block: Block) -> Pixels:
        scale = self._spec.scales[block.scale]
        side = scale.side * scale.mpp / self._mpp
        images = np.empty((len(block.rows), scale.side, scale.side, 3), np.uint8)
        for place, row in enumerate(block.rows.tolist()):
            x, y = (float(v) for v in self._xy[row])
            images[place] = self._slide.region(
                x - side / 2, y - side / 2, side, side,
                out_width=scale.side, out_height=scale.side,
            )  # fmt: skip
        return Pixels((entering(images, self.device).permute(0, 3, 1, 2),))

    def compute(self, block: Block, pixels: Pixels) -> Tensor:
        scale = self._spec.scales[block.scale]
        return centre_features(pixels.images[0], scale, self._loaded.module, self._loaded.entry)

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
