"""Image inputs of the rows of a slide, for whichever encoder a model has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml.inference.crops import crop_sides, row_crops
from ml.inference.features import row_features
from ml.models.config import ModelConfig

if TYPE_CHECKING:
    from ml.io.slides import SlideReader
    from ml.report import Report


def row_images(
    slide: SlideReader,
    xy: NDArray[np.float32],
    mpp: float,
    config: ModelConfig,
    path: Path,
    report: Report,
    span: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.float16] | NDArray[np.uint8]:
    """Pooled features of a dense encoder, or crops; kept in the file at `path`.

    Training and inference both come through here.
    """
    if config.features is not None:
        return row_features(slide, xy, mpp, config.features, path, report, span)
    sides = crop_sides(config.row_kind, config.spot_diameter_um)
    return row_crops(slide, xy, mpp, sides, path, report, span)
