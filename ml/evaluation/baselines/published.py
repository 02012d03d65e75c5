"""The published PAST's architecture, one crop per cell, trained here from random weights.

`ml.models.reference` holds the function; sizes are those that two cores can train. Expression is
the mean of the training cells whose embeddings lie nearest to the image's, since the published
model has no head for it. It says what the architecture learns from this much data, not what the
authors' weights, trained on 20 million pairs, would do.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from ml.evaluation.baselines.retrieved import mean_of_alike
from ml.evaluation.baselines.st_net import turned
from ml.evaluation.baselines.stopping import best_epoch
from ml.evaluation.subject import Floats32, Predictor, Subject, drawn
from ml.models.reference import ReferencePAST, ReferenceSizes
from ml.tokens.vocabulary import PAD, RESERVED
from ml.training.corpus import Corpus, Rows

SIDES, PATCH, GRID = 2.0, 16, 6
PIXELS = PATCH * GRID
MOST_ROWS, EPOCHS, BATCH, LEARNING_RATE = 4000, 4, 64, 5e-4
CONTEXT = 64
_LEAD = (RESERVED["spatial"], RESERVED["human"], RESERVED["Xenium"])
_MEAN, _STD = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)


def published_past(subject: Subject) -> Predictor:
    """Train it on the training part."""
    train, device = subject.train, subject.model.feature_mean.device
    torch.manual_seed(subject.seed)
    rows = drawn(train.measured, MOST_ROWS, subject.seed)
    sizes = ReferenceSizes(
        patch=PATCH, grid=GRID, image_dim=192, image_depth=4, image_hidden=768, image_heads=3,
        vocabulary=len(subject.model.config.vocabulary), context=CONTEXT, cell_dim=128,
        cell_depth=2, cell_hidden=256, cell_heads=4, graph_hidden=64, project=128,
    )  # fmt: skip
    net = ReferencePAST(sizes).to(device)
    crops = torch.from_numpy(subject.crops(train, rows, SIDES, PIXELS))
    values = train.expression(rows)
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=2e-2
    )

    def epoch() -> None:
        net.train()
        for batch in torch.randperm(len(rows)).split(BATCH):  # type: ignore[no-untyped-call]
            cells = _cells(train, rows[batch.numpy()], device)
            loss = net(_normalised(turned(crops[batch]).to(device)), *cells)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()

    @torch.no_grad()
    def predict(corpus: Corpus, some: Rows | None = None) -> Floats32:
        net.eval()
        keys = torch.cat(
            [net.encode_cell(*_cells(train, part, device)) for part in np.array_split(rows, 32)]
        )
        wanted = corpus.measured if some is None else some
        images = subject.crop_batches(corpus, wanted, SIDES, PIXELS)
        found = [
            net.encode_image(_normalised(torch.from_numpy(seen).to(device))) for _, seen in images
        ]
        return mean_of_alike(torch.cat(found), keys, values)

    chosen = best_epoch(net, epoch, predict, subject, EPOCHS)
    facts = {"training_rows": len(rows), "of_rows": len(train.measured), **chosen}
    return Predictor(
        "published", "published PAST architecture, a crop per row", predict, facts=facts
    )


def _normalised(crops: Tensor) -> Tensor:
    mean, std = (torch.tensor(v, device=crops.device).view(1, 3, 1, 1) for v in (_MEAN, _STD))
    return (crops.permute(0, 3, 1, 2).float() - mean) / std


def _tokens(corpus: Corpus, rows: Rows) -> Tensor:
    """Tokens of rows with the auxiliary ones in front: (n, CONTEXT)."""
    own = corpus.tokens[rows][:, : CONTEXT - len(_LEAD)].astype(np.int64)
    found = np.full((len(rows), CONTEXT), PAD, np.int64)
    found[:, : len(_LEAD)] = _LEAD
    found[:, len(_LEAD) : len(_LEAD) + own.shape[1]] = own
    return torch.from_numpy(found)


def _cells(corpus: Corpus, rows: Rows, device: torch.device) -> tuple[Tensor, ...]:
    """What `ReferencePAST.encode_cell` takes: neighbourhoods are fully connected, self last."""
    near = corpus.near(rows)
    graphs = [np.append(around[around >= 0], row) for around, row in zip(near, rows, strict=True)]
    ptr = np.concatenate([[0], np.cumsum([len(g) for g in graphs])])
    edges = [
        np.array(list(permutations(range(len(g)), 2)), np.int64).reshape(-1, 2) + at
        for g, at in zip(graphs, ptr, strict=False)
    ]
    tokens = _tokens(corpus, rows)
    nodes = _tokens(corpus, np.concatenate(graphs))
    found = (
        tokens, tokens == PAD, nodes, torch.from_numpy(np.concatenate(edges).T.copy()),
        torch.from_numpy(ptr),
    )  # fmt: skip
    return tuple(part.to(device) for part in found)
