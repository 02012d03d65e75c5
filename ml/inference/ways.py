"""The two ways to see the rows of a slide, behind one interface.

``crop`` is exact: each row has an image and a forward pass of its own. ``shared`` runs the encoder
over tiles and pools its maps under each row; what a model of features learns on them is its own
head, and a model of crops has a refinement that was distilled for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ml.errors import InputError
from ml.inference.crops import CONTEXT_PIXELS, CropSource, crop_sides
from ml.inference.encoder import Loaded, encoder_of
from ml.inference.exact import CropForward, WindowForward
from ml.inference.features import Forward, compute_rows
from ml.inference.shared import SharedForward
from ml.models import encoders
from ml.models.config import ModelConfig
from ml.models.features import FeatureSpec, Scale
from ml.models.heads import CropHead
from ml.models.past import PAST
from ml.training.corpus import EmbeddedRows, ImageSource

if TYPE_CHECKING:
    from ml.io.slides import SlideReader
    from ml.report import Report

Way = Literal["crop", "shared"]
WAYS: tuple[Way, ...] = ("crop", "shared")


def way_of(model: PAST, asked: str | None) -> Way:
    """The way to predict: the one that is asked for, else the one that the model was trained in.

    Raises:
        InputError: ``predict.way`` for an unknown way or one that the model has not.
    """
    if asked is not None and asked not in WAYS:
        raise InputError(
            "predict.way",
            "way",
            f"There is no way {asked!r}.",
            f"Choose one of: {', '.join(WAYS)}.",
        )
    if model.config.features is not None:
        return "crop" if asked == "crop" else "shared"
    if asked == "shared" and model.refinement is None:
        raise InputError(
            "predict.way",
            "way",
            "The model was trained on crops, and no refinement for the shared forward was fitted.",
            "Predict with way crop, or train again: training on slides fits one.",
        )
    return "shared" if asked == "shared" else "crop"


def shared_spec(config: ModelConfig) -> FeatureSpec:
    """Patch tokens that stand for the crops of a model of crops: windows up to its context."""
    context, own = crop_sides(config.row_kind, config.spot_diameter_um)
    windows = tuple(sorted({own / 2, own, context / 2, context}))
    return FeatureSpec(config.encoder, (Scale(context / CONTEXT_PIXELS, {"tokens": windows}),))


def own_encoder(model: PAST) -> Loaded:
    """The encoder inside a model of crops that has one member."""
    (member,) = model.networks()
    head = member.image_encoder
    assert isinstance(head, CropHead)
    entry = encoders.get(model.config.encoder)
    return Loaded(entry, head.encoder, model.feature_mean.device)


@dataclass(frozen=True)
class Slide:
    """A slide and its rows: positions (n, 2) in level-0 px, microns per level-0 px."""

    reader: SlideReader
    xy: NDArray[np.float32]
    mpp: float

    @property
    def xy_um(self) -> NDArray[np.float64]:
        """(n, 2) positions in µm."""
        return self.xy.astype(np.float64) * self.mpp

    def crops(self, config: ModelConfig) -> CropSource:
        """Crops of the rows."""
        sides = crop_sides(config.row_kind, config.spot_diameter_um)
        return CropSource(self.reader, self.xy, self.mpp, sides)


def forward_of(model: PAST, way: Way, slide: Slide) -> Forward:
    """The forward of a model in a way over the rows of a slide.

    Raises:
        InputError: ``encoder.changed`` and those of its file.
    """
    spec, where = model.config.features, (slide.reader, slide.xy, slide.mpp)
    if spec is not None:
        loaded = encoder_of(model.config, model.feature_mean.device)
        if way == "crop":
            return WindowForward(loaded, spec, *where)
        return SharedForward(loaded, spec, *where)
    if way == "crop":
        return CropForward(model, slide.crops(model.config))
    refinement = model.refinement
    assert refinement is not None
    width = int(refinement.weights.shape[1])
    return SharedForward(own_encoder(model), shared_spec(model.config), *where, refinement, width)


def seen_rows(
    model: PAST,
    way: Way,
    slide: Slide,
    path: Path,
    identity: dict[str, Any],
    name: str,
    report: Report,
) -> ImageSource:
    """Image inputs of all rows of a slide, in the file at `path`.

    Args:
        identity: of slide, rows and model; spec and way are added.
        name: of the slide, for messages.

    Raises:
        InputError: as `compute_rows`, `forward_of`.
    """
    forward = forward_of(model, way, slide)
    spec = model.config.features
    identity = {**identity, "way": way, "spec": spec.as_dict() if spec else None}
    images = compute_rows(forward, len(slide.xy), path, identity, name, report)
    if spec is None:
        return EmbeddedRows(cast(NDArray[np.float32], images), model.config)
    features = cast(NDArray[np.float16], images)
    return ImageSource([features], [slide.xy_um], model.config)


def row_images(
    slide: Slide,
    config: ModelConfig,
    where: torch.device,
    path: Path,
    name: str,
    report: Report,
    span: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.float16] | CropSource:
    """What a model is trained on: pooled features, kept in the file at `path`, or crops."""
    if config.features is None:
        return slide.crops(config)
    loaded = encoder_of(config, where)
    forward = SharedForward(loaded, config.features, slide.reader, slide.xy, slide.mpp)
    identity = {"spec": config.features.as_dict(), "encoder": loaded.sha256}
    images = compute_rows(forward, len(slide.xy), path, identity, name, report, span)
    return cast(NDArray[np.float16], images)
