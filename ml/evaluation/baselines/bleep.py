"""BLEEP-style retrieval (Xie et al., NeurIPS 2023, arXiv 2306.01859) on the frozen features.

Image and expression meet in one space by a contrast with the paper's smoothed targets; a row's
expression is the mean of the `NEAREST` training rows whose expression lies nearest to its image.
The image side is a projection of the frozen encoder's features, the same that PAST sees, so that
what differs is the method. The number of epochs is chosen on the validation part.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.evaluation.baselines.linear import encoder_columns
from ml.evaluation.baselines.retrieved import mean_of_alike
from ml.evaluation.baselines.stopping import best_epoch
from ml.evaluation.subject import Floats32, Predictor, Subject, drawn
from ml.models.heads import Projection
from ml.training.corpus import CHUNK, Corpus, Rows

MOST_ROWS, EPOCHS, BATCH = 50_000, 8, 512
PROJECT, TEMPERATURE, LEARNING_RATE = 256, 1.0, 1e-4


class _Net(nn.Module):
    def __init__(self, inputs: int, genes: int) -> None:
        super().__init__()
        self.image, self.expression = Projection(inputs, PROJECT), Projection(genes, PROJECT)

    def loss(self, images: Tensor, expression: Tensor) -> Tensor:
        """The paper's loss: soft targets are the mean of both self-similarities."""
        image, cell = self.image(images), self.expression(expression)
        logits = cell @ image.T / TEMPERATURE
        with torch.no_grad():
            target = ((image @ image.T + cell @ cell.T) / 2 / TEMPERATURE).softmax(-1)
        both = functional.cross_entropy(logits, target) + functional.cross_entropy(
            logits.T, target.T
        )
        return both / 2


def bleep(subject: Subject) -> Predictor:
    """Fit it to the training part."""
    model, train = subject.model, subject.train
    columns = torch.from_numpy(encoder_columns(model))
    rows = drawn(train.measured, MOST_ROWS, subject.seed)

    def features(corpus: Corpus, some: Rows) -> Tensor:
        values = torch.from_numpy(corpus.raw(some)).to(model.feature_mean.device)
        return model.standardise(values)[:, columns.to(values.device)]

    torch.manual_seed(subject.seed)
    values = train.expression(rows)
    mean, scale = values.mean(0), np.maximum(values.std(0), 1e-4)
    inputs, targets = features(train, rows), torch.from_numpy((values - mean) / scale)
    targets = targets.to(inputs.device)
    net = _Net(inputs.shape[1], targets.shape[1]).to(inputs.device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)

    def epoch() -> None:
        net.train()
        for batch in torch.randperm(len(rows)).split(BATCH):  # type: ignore[no-untyped-call]
            if len(batch) > 1:
                loss = net.loss(inputs[batch], targets[batch])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()

    @torch.no_grad()
    def predict(corpus: Corpus, some: Rows | None = None) -> Floats32:
        net.eval()
        keys = torch.cat([net.expression(part) for part in torch.split(targets, CHUNK)])
        wanted = corpus.measured if some is None else some
        parts = np.array_split(wanted, max(-(-len(wanted) // CHUNK), 1))
        queries = torch.cat([net.image(features(corpus, part)) for part in parts])
        return mean_of_alike(queries, keys, values)

    chosen = best_epoch(net, epoch, predict, subject, EPOCHS)
    return Predictor(
        "bleep", "retrieval in a shared space (BLEEP)", predict,
        facts={"training_rows": len(rows), **chosen},
    )  # fmt: skip
