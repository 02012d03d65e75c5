"""The alignment phase: image and cell meet in the shared space, expression stays as it is.

The image side and the expression head are frozen at what validation chose for expression. The cell
encoder, both projections and the temperature are trained by InfoNCE on the image embeddings, which
are computed once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.models.losses import info_nce, near_pairs
from ml.models.past import Member
from ml.training.corpus import Corpus

# Parts of a member that are aligned; nothing that expression is predicted with is among them.
ALIGNED = (
    "cell_encoder.",
    "cell_neighbourhood.",
    "image_projection.",
    "cell_projection.",
    "log_temperature",
)


@dataclass(frozen=True)
class AlignSettings:
    """How the shared space is trained.

    Attributes:
        epochs: at most, for each member; 0 leaves the phase out.
        batch: rows per step, each the others' negative.
        rows: training rows per epoch at most, drawn anew each time; None takes all.
        learning_rate: of AdamW; cosine to zero after one warm-up epoch.
        patience: epochs without a better recall on validation before the phase ends.
    """

    epochs: int = 6
    batch: int = 256
    rows: int | None = 4096
    learning_rate: float = 2e-3
    patience: int = 2


def aligned_state(member: Member) -> dict[str, Tensor]:
    """A copy of the weights that alignment changes."""
    return {k: v.clone() for k, v in member.state_dict().items() if k.startswith(ALIGNED)}


def drawn_rows(count: int, settings: AlignSettings, seed: int) -> list[NDArray[np.int64]]:
    """Batches of one epoch: numbers below `count`, each at most once."""
    order = np.random.default_rng(seed).permutation(count)[: settings.rows]
    return np.array_split(order, max(math.ceil(len(order) / settings.batch), 1))


def contrast(
    member: Member, train: Corpus, embeddings: Tensor, places: NDArray[np.int64], near_um: float
) -> Tensor:
    """InfoNCE of some measured rows, given by their place among them."""
    rows, device = train.measured[places], embeddings.device
    cells = train.cells(rows, device)
    return info_nce(
        member.image_projection(embeddings[torch.from_numpy(places).to(device)]),
        member.cell_projection(member.embed_cell(cells)),
        member.temperature(),
        near_pairs(cells.xy_um, cells.slide, near_um),
    )


def set_training(member: Member, on: bool) -> None:
    """Dropout of the aligned networks on or off; the frozen ones stay in eval mode."""
    member.eval()
    for name, network in member.named_children():
        if f"{name}." in ALIGNED:
            network.train(on)
