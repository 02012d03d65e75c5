"""A very small crop encoder and corpora to train it on; ``python -m tests.ml.training.tiny CONFIG``
is ``python -m ml.training CONFIG`` with this encoder in the registry."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ml.models import encoders
from ml.models.vit import Shape, VisionTransformer

NAME, OWNED = "vit_minute", "vit_minute_owned"
SMALL = {
    "dim": 16, "project": 8, "rank": 6, "cell_layers": 1, "cell_heads": 2, "context": 24,
    "dropout": 0.1,
}  # fmt: skip

if NAME not in encoders.names():

    @encoders.register(
        name=NAME, kind="crop", architecture="for tests", dim=16, patch=56, mpp=0.25,
        maps={"tokens": (56, 16)},
        mean=(127.5,) * 3, std=(127.5,) * 3, pooling="class token", licence="Apache-2.0",
        weights="none", frozen=False,
    )  # fmt: skip
    def vit_minute() -> nn.Module:
        """One block, 56-px patches: hundreds of crops a second on one core."""
        return VisionTransformer(Shape(patch=56, dim=16, depth=1, heads=2))

    @encoders.register(
        name=OWNED, kind="crop", architecture="for tests", dim=16, patch=56, mpp=0.25,
        maps={"tokens": (56, 16)},
        mean=(127.5,) * 3, std=(127.5,) * 3, pooling="class token", licence="Apache-2.0",
        weights="a file", files=("owner.safetensors",), frozen=False, outline=vit_minute,
    )  # fmt: skip
    def vit_minute_owned(path: Path) -> nn.Module:
        """The same with somebody's weights."""
        encoder = vit_minute()
        encoder.load_state_dict(load_file(path))
        return encoder


def write_weights(path: Path) -> Path:
    """The owner's file of `OWNED`, with random weights."""
    torch.manual_seed(5)
    save_file(encoders.get(NAME).build().state_dict(), path)
    return path


def write_config(path: Path, **tables: Any) -> Path:
    """A config file of these tables, with small sizes where none are given."""
    out = tables.pop("out", "trained")
    tables.setdefault("architecture", SMALL)
    tables["model"] = {"encoder": NAME, **tables.get("model", {})}
    tables["data"] = {"corpus": "corpus", "workers": 0, **tables.get("data", {})}
    lines = [f"out = {json.dumps(str(out))}"]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def history(trained: Path) -> list[dict[str, float]]:
    """The lines of a training's metrics that say its losses."""
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "gradient_norm" in row]


if __name__ == "__main__":
    from ml.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
