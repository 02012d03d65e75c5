"""When a network baseline stops: at the epoch that the validation part found best."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
from torch import nn

from ml.evaluation.metrics import within_groups
from ml.evaluation.subject import Floats32, Subject, drawn
from ml.training.corpus import Corpus, Rows

VALIDATION_ROWS = 2000


def best_epoch(
    net: nn.Module,
    epoch: Callable[[], None],
    predict: Callable[[Corpus, Rows], Floats32],
    subject: Subject,
    epochs: int,
) -> dict[str, Any]:
    """Train for some epochs and leave the weights of the best one in place.

    Args:
        epoch: trains for one epoch.
        predict: (rows, genes) of some rows of a corpus.

    Returns:
        epochs, epoch (that was kept) and its validation_pcc, on at most `VALIDATION_ROWS` rows;
        without a validation part the last epoch is kept and its score is None.
    """
    validation = subject.held_out.get("validation")
    if validation is None:
        for _ in range(epochs):
            epoch()
        return {"epochs": epochs, "epoch": epochs, "validation_pcc": None}
    rows = drawn(validation.measured, VALIDATION_ROWS, subject.seed)
    measured, slide = validation.expression(rows), validation.section[rows]
    best, kept, weights = -np.inf, 0, net.state_dict()
    for number in range(1, epochs + 1):
        epoch()
        pcc = within_groups(predict(validation, rows), measured, slide)
        reached = float(np.nanmedian(pcc)) if np.isfinite(pcc).any() else 0.0
        if reached > best:
            best, kept, weights = reached, number, deepcopy(net.state_dict())
    net.load_state_dict(weights)
    return {"epochs": epochs, "epoch": kept, "validation_pcc": best}
