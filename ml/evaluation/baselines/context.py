"""The oracle of context: what measured neighbours say of a row. It sees what no slide shows."""

from __future__ import annotations

import numpy as np

from ml.evaluation.metrics import within_groups
from ml.evaluation.subject import Floats32, Predictor
from ml.training.corpus import Corpus, nearest

COUNTS = (1, 4, 8, 16, 32)


def neighbours_oracle(train: Corpus) -> Predictor:
    """Mean measured expression of a row's nearest other rows on its own slide.

    How many is chosen on the training part.
    """
    reached = {}
    measured, slide = train.all_expression(), train.section[train.measured]
    for count in COUNTS:
        pcc = within_groups(_mean_of_nearest(train, count), measured, slide)
        reached[count] = float(np.nanmedian(pcc)) if np.isfinite(pcc).any() else 0.0
    best = max(reached, key=lambda count: reached[count])
    return Predictor(
        "neighbours", "mean of measured neighbours (oracle)",
        lambda corpus: _mean_of_nearest(corpus, best), fair=False, facts={"neighbours": best},
    )  # fmt: skip


def _mean_of_nearest(corpus: Corpus, count: int) -> Floats32:
    section = corpus.section[corpus.measured]
    found = np.zeros((len(corpus.measured), corpus.counts.shape[1]), np.float32)
    for number in np.unique(section):
        own = np.flatnonzero(section == number)
        rows = corpus.measured[own]
        values = corpus.expression(rows)
        index, _ = nearest(corpus.xy_um[rows], count, np.inf)
        total = np.zeros_like(values)
        for near in index.T:
            total += np.where((near >= 0)[:, None], values[np.maximum(near, 0)], 0.0)
        found[own] = total / np.maximum((index >= 0).sum(1), 1)[:, None]
    return found
