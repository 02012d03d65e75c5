"""The shared forward of a model of crops is given its refinement: pooled tokens → embedding.

A ridge is distilled from the model's own embeddings of training rows' crops; its penalty is chosen
on training slides that are left out in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml.evaluation.ridge import Solver, Sums, choose
from ml.inference.exact import CropForward
from ml.inference.features import compute_in_memory
from ml.inference.shared import TRANSFORMER_CORE, SharedForward, tiles
from ml.inference.ways import Slide, own_encoder, shared_spec
from ml.models.past import PAST
from ml.models.refinement import Refinement

# Rows that the refinement is fitted to, about, and the most that one tile gives.
ROWS, PER_TILE = 1024, 64
_SMALLEST = 1e-6
Floats = NDArray[np.float32]


def fit_refinement(model: PAST, training: Sequence[Slide], seed: int = 0) -> Refinement | None:
    """Give a trained model of crops its refinement.

    Args:
        model: on crops, in eval mode.
        training: the training slides with their rows.

    Returns:
        the refinement, None for an ensemble: each of its members has an encoder of its own, and
        running them all over the tiles is not worth it.
    """
    if len(model.members) > 1:
        return None
    pairs = [_pairs(model, slide, rows) for slide, rows in _chosen(model, training, seed)]
    every = np.concatenate([tokens for tokens, _ in pairs])
    mean, scale = every.mean(0), np.maximum(every.std(0), _SMALLEST)
    parts = [Sums.over([((tokens - mean) / scale, wanted)]) for tokens, wanted in pairs]
    choice = choose(parts)
    ridge = Solver(sum(parts[1:], parts[0])).ridge(choice.penalty)
    weights = ridge.weights / scale[:, None]
    found = Refinement.of(weights, ridge.intercept - mean @ weights)
    model.refinement = found.to(model.feature_mean.device)
    return model.refinement


def _chosen(
    model: PAST, slides: Sequence[Slide], seed: int
) -> list[tuple[Slide, NDArray[np.int64]]]:
    """About `ROWS` rows, some of each slide, that lie in few tiles."""
    rng, scale = np.random.default_rng(seed), shared_spec(model.config).scales[0]
    patch, each = own_encoder(model).entry.patch, -(-ROWS // len(slides))
    found: list[tuple[Slide, NDArray[np.int64]]] = []
    for slide in (slide for slide in slides if len(slide.xy)):
        cut = [rows for rows, _ in tiles(slide.xy, slide.mpp, scale, TRANSFORMER_CORE, patch)]
        taken = np.zeros(0, np.int64)
        for number in rng.permutation(len(cut)):
            if len(taken) >= each:
                break
            some = rng.permutation(cut[number])[: min(PER_TILE, each - len(taken))]
            taken = np.concatenate([taken, some])
        if len(taken):
            found.append((slide, np.sort(taken)))
    return found


def _pairs(model: PAST, slide: Slide, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Pooled tokens of some rows, and the embeddings of their crops."""
    some = Slide(slide.reader, slide.xy[rows], slide.mpp)
    shared = SharedForward(
        own_encoder(model), shared_spec(model.config), some.reader, some.xy, some.mpp
    )
    crops = CropForward(model, some.crops(model.config))
    tokens, wanted = (compute_in_memory(way, len(rows)) for way in (shared, crops))
    return tokens.astype(np.float32), wanted.astype(np.float32)
