"""What happens to predictions when a slide is stained, focused, compressed or scanned otherwise."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ml.evaluation.bootstrap import Resampling, blocks
from ml.evaluation.chapters import chapter
from ml.evaluation.expression import BLOCK_UM
from ml.evaluation.metrics import LEAST_ROWS
from ml.evaluation.subject import Floats32, Subject
from ml.inference.features import compute_in_memory, stop_if_asked
from ml.inference.ways import Slide, forward_of, way_of
from ml.models import stain
from ml.training.corpus import Corpus, EmbeddedRows, ImageSource, Rows, predict_rows

if TYPE_CHECKING:
    from ml.io.slides import SlideReader
    from ml.report import Report

# Slides that are looked at, those with most rows of each patient first, and the side of the square
# on each, in units of the row's own width: 400 µm for cells.
SLIDES, SIDE = 4, 14.0
Pixels = NDArray[np.uint8]
# Pixels, µm per pixel and a level → pixels.
Disturb = Callable[[Pixels, float, float], Pixels]


def stain_shift(pixels: Pixels, mpp: float, level: float) -> Pixels:
    """Haematoxylin `level` times as dense and eosin less by the same factor."""
    unmix = stain._unmix(torch.device("cpu"))
    image = torch.from_numpy(pixels).permute(2, 0, 1).float()
    found = stain.densities(image)
    factors = torch.tensor([level, 1 / level, 1.0]).view(3, 1, 1)
    density = torch.einsum("shw,sc->chw", found * factors, torch.linalg.inv(unmix))
    changed = (256 * torch.exp(-density) - 1).clamp(0, 255).round().byte()
    return np.ascontiguousarray(changed.permute(1, 2, 0).numpy())


def blur(pixels: Pixels, mpp: float, level: float) -> Pixels:
    """Out of focus: a Gaussian of deviation `level` µm."""
    return np.asarray(gaussian_filter(pixels, (level / mpp, level / mpp, 0)), np.uint8)


def jpeg(pixels: Pixels, mpp: float, level: float) -> Pixels:
    """Compressed at quality `level` and read again."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(level))
    return np.asarray(Image.open(file).convert("RGB"))


def resolution(pixels: Pixels, mpp: float, level: float) -> Pixels:
    """Scanned at `level` µm per pixel, and enlarged again."""
    height, width = pixels.shape[:2]
    size = max(round(width * mpp / level), 1), max(round(height * mpp / level), 1)
    small = Image.fromarray(pixels).resize(size, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Disturbance:
    """One kind of change at several levels, mildest first, with the level that changes nothing."""

    name: str
    unit: str
    apply: Disturb
    levels: tuple[float, ...]
    none: float


DISTURBANCES = (
    Disturbance("stain", "× haematoxylin, ÷ eosin", stain_shift, (0.6, 0.8, 1.25, 1.6), 1.0),
    Disturbance("blur", "µm", blur, (0.5, 1.0, 2.0), 0.0),
    Disturbance("JPEG", "quality", jpeg, (70, 40, 15), 100),
    Disturbance("resolution", "µm per pixel", resolution, (1.0, 2.0, 4.0), 0.5),
)


class Disturbed:
    """A slide reader whose regions are changed; all else is the slide's own."""

    def __init__(self, reader: SlideReader, change: Callable[[Pixels, float], Pixels]) -> None:
        self._reader, self._change = reader, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def region(self, x: float, y: float, width: float, height: float, **size: int | None) -> Pixels:
        pixels = self._reader.region(x, y, width, height, **size)
        return self._change(pixels, self._reader.require_mpp() * width / pixels.shape[1])


@dataclass(frozen=True)
class _Sample:
    """Rows of one slide that lie together; `rows` are numbers in the corpus, `own` on the slide."""

    slide: Slide
    rows: Rows
    own: Rows


@chapter("robustness", "Stain, focus, compression and resolution")
def robustness(subject: Subject, part: str, report: Report) -> dict[str, Any] | None:
    """Pearson on changed slides against that on the slides as they are.

    Rows are those of a square in the middle of up to `SLIDES` slides, and neighbours among them.

    Returns:
        rows, slides, rows_per_s (the unchanged forward), clean (median Pearson), and curves: kind →
        unit, none (level without a change), points (level, pcc, difference, low, high); None where
        no slide has enough rows.
    """
    corpus = subject.held_out[part]
    samples = _samples(subject, corpus)
    if not samples:
        return None
    rows = np.concatenate([s.rows for s in samples])
    measured = corpus.expression(rows)
    side = BLOCK_UM[subject.model.config.row_kind] / 2
    group = np.repeat(np.arange(len(samples)), [len(s.rows) for s in samples])
    block = np.concatenate([blocks(corpus.xy_um[s.rows], side) for s in samples])
    resampling = Resampling(group, block, seed=subject.seed)
    began = time.perf_counter()
    clean = resampling.pearson(_predicted(subject, samples, None), measured)
    rate = len(rows) / (time.perf_counter() - began)
    curves: dict[str, Any] = {}
    steps = sum(len(d.levels) for d in DISTURBANCES)
    done = 0
    for kind in DISTURBANCES:
        points = []
        for level in kind.levels:
            stop_if_asked(report)
            predicted = _predicted(subject, samples, _at(kind, level))
            found = resampling.pearson(predicted, measured)
            difference, low, high = found.minus(clean)
            points.append({"level": level, "pcc": found.median()[0], "difference": difference,
                           "low": low, "high": high})  # fmt: skip
            done += 1
            report.progress(done / steps)
        curves[kind.name] = {"unit": kind.unit, "none": kind.none, "points": points}
    return {
        "rows": len(rows), "slides": len(samples), "rows_per_s": rate,
        "clean": clean.median()[0], "curves": curves,
    }  # fmt: skip


def _at(kind: Disturbance, level: float) -> Callable[[Pixels, float], Pixels]:
    return lambda pixels, mpp: kind.apply(pixels, mpp, level)


def _samples(subject: Subject, corpus: Corpus) -> list[_Sample]:
    own = subject.model.config.spot_diameter_um or 28.0
    half = SIDE * own / 2
    found: dict[str, tuple[int, _Sample]] = {}
    for number, section in enumerate(corpus.sections):
        rows = corpus.measured[corpus.section[corpus.measured] == number]
        if len(rows) < LEAST_ROWS:
            continue
        xy = corpus.xy_um[rows]
        middle = xy[np.abs(xy - np.median(xy, axis=0)).max(1).argmin()]
        near = rows[np.abs(xy - middle).max(1) <= half]
        if len(near) < LEAST_ROWS:
            continue
        sample = _Sample(subject.slides[section.code], near, near - corpus.offsets[number])
        if len(near) > found.get(section.patient, (0, sample))[0]:
            found[section.patient] = len(near), sample
    largest = sorted(found.values(), key=lambda one: -one[0])[:SLIDES]
    return [sample for _, sample in largest]


def _predicted(
    subject: Subject, samples: list[_Sample], change: Callable[[Pixels, float], Pixels] | None
) -> Floats32:
    """Predicted expression of the samples' rows from slides that are changed so."""
    model, found = subject.model, []
    for sample in samples:
        reader = sample.slide.reader
        if change is not None:
            reader = cast("SlideReader", Disturbed(reader, change))
        slide = Slide(reader, sample.slide.xy[sample.own], sample.slide.mpp)
        images = compute_in_memory(forward_of(model, way_of(model, None), slide), len(sample.own))
        source: ImageSource
        if model.config.features is None:
            source = EmbeddedRows(cast(Floats32, images), model.config)
        else:
            features = cast(NDArray[np.float16], images)
            source = ImageSource([features], [slide.xy_um], model.config)
        found.append(predict_rows(model, source, np.arange(len(sample.own))))
    return np.concatenate(found)
