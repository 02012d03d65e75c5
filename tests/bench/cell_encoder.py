"""The cell encoder at the published size, against padding every cell to the context of 300."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench.registry import Row, benchmark
from tests.bench.tokens import panel_counts

CELLS, CONTEXT, GENES, ROUNDS = 256, 300, 20_340, 2


@benchmark("cell_encoder")
def cell_encoder(folder: Path) -> Iterator[Row]:
    """Forward passes of 12 layers of width 512, in turn with the same weights on padded cells.

    Lengths are those of the tokeniser's Xenium-like panel, and where PAST_REAL_DATA is set also
    those of real Xenium cells.
    """
    yield _compared("cell_encoder_speedup", np.diff(panel_counts(np.random.default_rng(0)).indptr))
    real = os.environ.get("PAST_REAL_DATA")
    if real:
        yield _compared("cell_encoder_speedup_xenium", _xenium_lengths(Path(real)))


def _compared(name: str, lengths: NDArray[np.int64]) -> Row:
    import torch

    from ml.models.cell_encoder import CellEncoder
    from ml.tokens.vocabulary import PAD

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    chosen = torch.from_numpy(rng.choice(lengths[lengths > 0], CELLS).astype(np.int64))
    tokens = torch.randint(30, GENES, (CELLS, CONTEXT))
    tokens[torch.arange(CONTEXT) >= chosen[:, None].clamp_max(CONTEXT - 3)] = PAD
    encoder = CellEncoder(GENES, CONTEXT, 512, 12, 16, 0.0).eval()

    def padded() -> torch.Tensor:
        pad = tokens == PAD
        x = encoder.embeddings(tokens) + encoder.positional_embedding.weight
        x = encoder.encoder(x, src_key_padding_mask=pad).masked_fill(pad[:, :, None], 0.0)
        return x.sum(1) / (~pad).sum(1, keepdim=True)

    with torch.no_grad():
        assert torch.allclose(encoder(tokens), padded(), atol=1e-4)
        ours, theirs = zip(*[(_s(lambda: encoder(tokens)), _s(padded)) for _ in range(ROUNDS)],
                           strict=True)  # fmt: skip
    print(f"{name}: {float(chosen.float().mean()):.0f} tokens a cell", file=sys.stderr)
    return Row(name, float(np.median(np.array(theirs) / np.array(ours))), "x")


def _xenium_lengths(real: Path) -> NDArray[np.int64]:
    """Genes that each cell of a real Xenium table expresses."""
    import pandas as pd

    path = real / "xenium" / "ghist_breast_demo" / "expr_mat_breast_demo.csv.gz"
    counts = pd.read_csv(path, index_col=0).to_numpy()
    lengths: NDArray[np.int64] = (counts > 0).sum(1)
    return lengths


def _s(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
