"""What the evaluation page draws: rows with measured and predicted values, and worst regions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.bootstrap import blocks
from ml.evaluation.subject import Floats32, Subject
from ml.training.corpus import Corpus

# Rows of a part that are kept for drawing, spread evenly over each slide.
MAP_ROWS = 20_000
# Side of a region in units of a row's own width (200 µm for cells), and rows that it must have.
REGION, REGION_ROWS, REGIONS = 7.0, 10, 12


def write_maps(subject: Subject, corpus: Corpus, predicted: Floats32, out: Path) -> None:
    """Write some rows of a part.

    ``measured.npy`` and ``predicted.npy`` are (genes, rows) float16, so that a gene is read without
    the others; ``xy.npy`` (rows, 2) float32 in level-0 px; ``slides.json`` lists code, patient,
    first and stop of each slide's rows, of (rows that there are) and the mpp; ``genes.json`` the
    symbols.
    """
    out.mkdir(parents=True, exist_ok=True)
    section = corpus.section[corpus.measured]
    kept, slides, first = [], [], 0
    for number, given in enumerate(corpus.sections):
        own = np.flatnonzero(section == number)
        if not len(own):
            continue
        most = max(int(MAP_ROWS * len(own) / len(section)), min(len(own), 200))
        chosen = own[np.unique(np.linspace(0, len(own) - 1, min(most, len(own))).astype(np.int64))]
        kept.append(chosen)
        slides.append({
            "slide": given.code, "patient": given.patient, "first": first,
            "stop": first + len(chosen), "of": len(own), "mpp": subject.slides[given.code].mpp,
        })  # fmt: skip
        first += len(chosen)
    place = np.concatenate(kept)
    rows = corpus.measured[place]
    np.save(out / "measured.npy", np.ascontiguousarray(corpus.expression(rows).T, np.float16))
    np.save(out / "predicted.npy", np.ascontiguousarray(predicted[place].T, np.float16))
    np.save(out / "xy.npy", _pixels(subject, corpus, rows))
    (out / "slides.json").write_text(json.dumps(slides))
    (out / "genes.json").write_text(json.dumps(list(subject.model.config.vocabulary.symbols)))


def _pixels(subject: Subject, corpus: Corpus, rows: NDArray[np.int64]) -> Floats32:
    mpp = np.array([subject.slides[s.code].mpp for s in corpus.sections])
    found: Floats32 = (corpus.xy_um[rows] / mpp[corpus.section[rows]][:, None]).astype(np.float32)
    return found


def worst_regions(subject: Subject, corpus: Corpus, predicted: Floats32) -> list[dict[str, Any]]:
    """Squares of held-out slides where predictions are furthest off, worst first.

    The error of a row is the root mean square over genes of measured minus predicted in deviations
    of the gene on the training part; that of a region is the mean over its rows.

    Returns:
        up to `REGIONS` of slide, patient, x and y (middle, level-0 px), side_um, n, error, usual
        (the median region's error), and genes, the three that are furthest off.
    """
    _, scale = subject.train.expression_moments()
    off = (corpus.all_expression() - predicted) / scale
    error = np.sqrt(np.nanmean(np.square(off, dtype=np.float64), axis=1))
    section = corpus.section[corpus.measured]
    side = REGION * (subject.model.config.spot_diameter_um or 28.0)
    found: list[dict[str, Any]] = []
    symbols = subject.model.config.vocabulary.symbols
    for number, given in enumerate(corpus.sections):
        own = np.flatnonzero(section == number)
        if not len(own):
            continue
        xy = corpus.xy_um[corpus.measured[own]]
        region = blocks(xy, side)
        for place in range(int(region.max()) + 1):
            inside = own[region == place]
            if len(inside) < REGION_ROWS:
                continue
            middle = xy[region == place].mean(0) / subject.slides[given.code].mpp
            by_gene = np.abs(off[inside].mean(0))
            found.append({
                "slide": given.code, "patient": given.patient,
                "x": float(middle[0]), "y": float(middle[1]), "side_um": side, "n": len(inside),
                "error": float(error[inside].mean()),
                "genes": [symbols[i] for i in np.argsort(-np.nan_to_num(by_gene))[:3]],
            })  # fmt: skip
    if not found:
        return []
    usual = float(np.median([r["error"] for r in found]))
    found.sort(key=lambda region: -region["error"])
    return [region | {"usual": usual} for region in found[:REGIONS]]
