"""Small random rows for the engine, the same in every process that asks for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ml.models.batches import CellBatch, FeatureBatch
from ml.models.config import Architecture, ModelConfig
from ml.models.features import FeatureSpec, Scale
from ml.models.past import PAST, LossWeights, Member
from ml.tokens.vocabulary import Vocabulary
from ml.training.distributed import Ranks
from ml.training.engine import Batch, Phase, Source, Validation

GENES, CONTEXT = 6, 5
ALL = LossWeights(expression=1.0, counts=0.5, contrast=1.0, masked_gene=0.5)


def config(dropout: float = 0.0) -> ModelConfig:
    spec = FeatureSpec("efficientnet_lite0", (Scale(0.5, {"stain": (28.0,)}),))
    return ModelConfig(
        encoder="efficientnet_lite0",
        features=spec,
        architecture=Architecture(
            dim=16, hidden=16, project=8, rank=4, cell_layers=1, context=CONTEXT,
            dropout=dropout, input_dropout=dropout,
        ),
        vocabulary=Vocabulary(tuple(f"G{i}" for i in range(GENES)), np.ones(GENES, np.float32)),
        row_kind="cell",
        spot_diameter_um=None,
        spot_pitch_um=None,
        mpp=0.5,
    )  # fmt: skip


def model(dropout: float = 0.0) -> PAST:
    """Every weight drawn, so that paths that start silent are heard."""
    torch.manual_seed(0)
    found = PAST(config(dropout))
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.constant_(found.networks()[0].log_temperature, -1.5)
    for module in found.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout  # projections have one of their own
    for head in (m.expression_head for m in found.networks()):
        torch.nn.init.normal_(head.loadings)
        head.mean.fill_(2.0)
    return found


def rows(n: int, seed: int = 0) -> tuple[FeatureBatch, CellBatch]:
    """n rows of two slides with three neighbours each; image and cell are linked."""
    random = torch.Generator().manual_seed(seed)
    inputs = config().features.dim  # type: ignore[union-attr]
    image = torch.randn(n, inputs, generator=random)
    counts = torch.poisson(torch.rand(n, GENES, generator=random) * 6 + 0.1, generator=random)
    tokens = torch.stack([torch.randperm(GENES, generator=random)[:CONTEXT] for _ in range(n)]) + 30
    near = torch.randint(0, n, (n, 3), generator=random)
    distance = torch.rand(n, 3, generator=random) * 50
    absent = torch.rand(n, 3, generator=random) < 0.2
    xy = torch.rand(n, 2, generator=random) * 100
    return (
        FeatureBatch(image, image[near], distance, absent),
        CellBatch(
            tokens, tokens[near], distance, absent, counts, counts.sum(1), None, xy,
            torch.arange(n) % 2,
        ),
    )  # fmt: skip


def part(of, places):  # type: ignore[no-untyped-def]
    """Some rows of a batch."""
    return type(of)(*[None if value is None else value[places] for value in of])


def batch(of: tuple[FeatureBatch, CellBatch], places: torch.Tensor, total: int) -> Batch:
    numbers = places.tolist()
    return Batch(part(of[0], places), part(of[1], places), total, lambda: {"S1": numbers})


class Rows:
    """A source over random rows that deals each round to the ranks."""

    def __init__(self, n: int, size: int, ranks: Ranks | None = None, seed: int = 0) -> None:
        self.of, self.n, self.size, self.ranks = rows(n, seed), n, size, ranks or Ranks()
        self.given: list[tuple[int, list[int]]] = []

    def steps(self, epoch: int) -> int:
        return -(-self.n // (self.size * self.ranks.size))

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(self.n))
        for together in torch.tensor_split(order, self.steps(epoch))[first:]:
            own = together[self.ranks.rank :: self.ranks.size]
            self.given.append((epoch, own.tolist()))
            yield batch(self.of, own, len(together))


def phase(
    source: Source,
    losses: LossWeights = ALL,
    validation: Validation | None = None,
    **settings: object,
) -> Phase:
    def begin(member: Member, number: int) -> tuple[Source, Validation | None]:
        return source, validation

    given: dict[str, object] = {
        "name": "joint", "losses": losses, "epochs": 3, "learning_rate": 1e-2, "patience": 99,
        "score": "score", "begin": begin, **settings,
    }  # fmt: skip
    return Phase(**given)  # type: ignore[arg-type]
