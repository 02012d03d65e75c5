"""The two ways of inference against each other, on some rows of validation slides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.metrics import within_groups
from ml.inference.encoder import encoder_of
from ml.inference.exact import WindowForward
from ml.inference.features import Forward, compute_in_memory
from ml.inference.shared import CORE, TRANSFORMER_CORE, tiles
from ml.inference.ways import Slide, Way, forward_of, shared_spec
from ml.models import encoders
from ml.models.past import PAST
from ml.training.corpus import Corpus, EmbeddedRows, ImageSource, Rows, predict_rows

# Rows that are compared, about; slides that they are taken from at most; groups of rows that lie
# together on each, so that rows share their neighbours.
ROWS, SLIDES, GROUPS = 200, 4, 1


@dataclass(frozen=True)
class Sample:
    """Rows of one slide.

    Attributes:
        number: of the section in the corpus.
        tile: all rows of the tile that they are in.
        rows: those that are compared; numbers on the slide, like `tile`.
    """

    number: int
    slide: Slide
    tile: Rows
    rows: Rows


@dataclass
class _Timed:
    """What is predicted in one way, rows seen and seconds taken."""

    predicted: list[NDArray[np.float32]]
    rows: int = 0
    seconds: float = 0.0

    def timed(self, forward: Forward, rows: int) -> NDArray[Any]:
        began = time.perf_counter()
        found = compute_in_memory(forward, rows)
        self.seconds += time.perf_counter() - began
        self.rows += rows
        return found


def compare_ways(
    model: PAST,
    corpus: Corpus,
    slides: Sequence[Slide],
    part: str = "validation",
    rows: int = ROWS,
) -> dict[str, Any] | None:
    """Accuracy and speed of both ways.

    The shared forward is timed on whole tiles, one of each slide that has a usual number of rows;
    the accuracy is over measured rows in them.

    Args:
        model: in eval mode.
        corpus: held-out sections, not those that are reported.
        slides: the same sections.
        part: what they are called.
        rows: to compare, about.

    Returns:
        rows, part, crop and shared (each pcc, rows_per_s), speedup, pcc_loss; pcc is the median
        over the genes of their correlation within slides. None for a model of crops without a
        refinement, which has one way only.
    """
    if model.config.features is None and model.refinement is None:
        return None
    samples = _samples(model, corpus, slides, rows)
    found: dict[Way, _Timed] = {"crop": _Timed([]), "shared": _Timed([])}
    for sample in samples:
        if model.config.features is not None:
            _see_features(model, corpus, sample, found)
        else:
            _see_crops(model, sample, found)
    every = [s.rows + corpus.offsets[s.number] for s in samples]
    measured = np.concatenate([corpus.expression(rows) for rows in every])
    section = corpus.section[np.concatenate(every)]
    ways: dict[str, Any] = {}
    for way, seen in found.items():
        pcc = within_groups(np.concatenate(seen.predicted), measured, section)
        rate = seen.rows / max(seen.seconds, 1e-9)
        ways[way] = {"pcc": float(np.nanmedian(pcc)), "rows_per_s": rate}
    return {
        "rows": len(measured),
        "part": part,
        **ways,
        "speedup": ways["shared"]["rows_per_s"] / ways["crop"]["rows_per_s"],
        "pcc_loss": ways["crop"]["pcc"] - ways["shared"]["pcc"],
    }


def _samples(model: PAST, corpus: Corpus, slides: Sequence[Slide], most: int) -> list[Sample]:
    spec = model.config.features or shared_spec(model.config)
    patch = encoders.get(spec.encoder).patch
    core = TRANSFORMER_CORE if patch else CORE
    numbers = np.unique(np.linspace(0, len(slides) - 1, min(SLIDES, len(slides))).astype(int))
    found: list[Sample] = []
    for number in numbers.tolist():
        slide, first = slides[number], corpus.offsets[number]
        if not len(slide.xy):
            continue
        measured = corpus.measured[corpus.section[corpus.measured] == number] - first
        cut = [rows for rows, _ in tiles(slide.xy, slide.mpp, spec.scales[0], core, patch)]
        cut.sort(key=len)
        sizes = np.cumsum([len(rows) for rows in cut])
        tile = cut[int(np.searchsorted(sizes, sizes[-1] / 2))]  # where the median row lies
        able = np.intersect1d(tile, measured)
        rows = _grouped(slide.xy_um, able, -(-most // len(numbers)))
        if len(rows) > 1:
            found.append(Sample(number, slide, tile, rows))
    return found


def _grouped(xy_um: NDArray[np.float64], able: Rows, count: int, seed: int = 0) -> Rows:
    """About `count` of some rows, in groups that lie together."""
    if len(able) <= count:
        return able
    seeds = np.random.default_rng(seed).choice(able, GROUPS, replace=False)
    groups = []
    for row in seeds.tolist():
        distance = np.square(xy_um[able] - xy_um[row]).sum(1)
        groups.append(able[np.argsort(distance, kind="stable")[: -(-count // GROUPS)]])
    return cast(Rows, np.unique(np.concatenate(groups)))


def _see_features(model: PAST, corpus: Corpus, sample: Sample, found: dict[Way, _Timed]) -> None:
    """Predictions from the features that there are, and from those of images around each row."""
    slide, spec = sample.slide, model.config.features
    assert spec is not None
    first = corpus.offsets[sample.number]
    own = sample.rows + first
    found["shared"].predicted.append(predict_rows(model, corpus, own))
    around = Slide(slide.reader, slide.xy[sample.tile], slide.mpp)
    forward = forward_of(model, "shared", around)
    found["shared"].timed(forward, len(sample.tile))

    near = corpus.near(own)
    needed = np.unique(np.concatenate([own, near[near >= 0]])) - first
    loaded = encoder_of(model.config, model.feature_mean.device)
    some = Slide(slide.reader, slide.xy[needed], slide.mpp)
    windows = WindowForward(loaded, spec, some.reader, some.xy, some.mpp)
    features = found["crop"].timed(windows, len(needed))
    moments = None if corpus.moments is None else [corpus.moments[sample.number]]
    source = ImageSource([features], [some.xy_um], model.config, moments)
    places = np.searchsorted(needed, sample.rows)
    found["crop"].predicted.append(predict_rows(model, source, places))


def _see_crops(model: PAST, sample: Sample, found: dict[Way, _Timed]) -> None:
    """Predictions from the embeddings of crops, and from refined tokens."""
    slide = sample.slide
    which: dict[Way, Rows] = {"crop": sample.rows, "shared": sample.tile}
    for way, rows in which.items():
        seen, some = found[way], Slide(slide.reader, slide.xy[rows], slide.mpp)
        forward = forward_of(model, way, some)
        embeddings = seen.timed(forward, len(rows))
        source = EmbeddedRows(embeddings, model.config)
        seen.predicted.append(predict_rows(model, source, np.searchsorted(rows, sample.rows)))
