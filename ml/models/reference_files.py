"""Files of reference models: published checkpoints, and our layout of the same weights.

Errors of reading, each an InputError: ``checkpoint.missing`` (no such file), ``.code`` (a pickle
that would run code), ``.unreadable`` (neither format), ``.layout`` (no weights where they belong),
``.keys`` (tensors missing or not known), ``.shape``, ``.heads``, ``.not_finite``, ``.config``.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml.errors import InputError
from ml.io.store import content_hash
from ml.models.reference import FUSION_HEADS, ReferencePAST, ReferenceSizes
from ml.models.tensor_files import read_tensor_file

WEIGHTS, CONFIG = "model.safetensors", "config.json"
PUBLISHED_HEADS = (16, 16)
# The template layer is what torch copied the encoder's layers from; distances never reach the GAT.
UNUSED = ("cell_encoder.encoder_layer.", "graph_encoder.distance_transform.")
OPTIONAL = "attn_bias"
REMEDY = "Give a checkpoint of the published PAST model, or a folder that was converted from one."

Weights = dict[str, Tensor]


def convert(
    path: Path, out: Path, image_heads: int | None = None, cell_heads: int | None = None
) -> ReferencePAST:
    """Write a published checkpoint as a folder of our layout, and return the model read from it.

    The folder has ``model.safetensors`` and ``config.json`` with mode ``reference``; it appears
    when it is complete.

    Raises:
        InputError: as `read_model`; ``convert.exists`` when `out` is there already.
    """
    from ml.models.checkpoint import write_json, write_tensors

    if out.exists():
        raise InputError(
            "convert.exists", str(out), "It exists already.", "Name a folder that does not exist."
        )
    model = read_model(path, image_heads, cell_heads)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        write_tensors(part / WEIGHTS, model.state_dict())
        write_json(part / CONFIG, _config(model, path))
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return ReferencePAST.from_checkpoint(out)


def _config(model: ReferencePAST, source: Path) -> dict[str, Any]:
    return {
        "format": 1,
        "mode": "reference",
        "image_heads": model.sizes.image_heads,
        "cell_heads": model.sizes.cell_heads,
        "sizes": asdict(model.sizes),
        "provenance": {"source": source.name, "sha256": content_hash(source)[0]},
    }


def read_model(path: Path, image_heads: int | None, cell_heads: int | None) -> ReferencePAST:
    """The model of a ``.pth``, a ``.safetensors`` or a folder of ours; errors as listed above."""
    stated = PUBLISHED_HEADS
    where = str(path)
    if path.is_dir():
        stated, path = _stated_heads(path), path / WEIGHTS
    weights = {name: tensor for name, tensor in _read(path).items() if not name.startswith(UNUSED)}
    _check_keys(where, missing=[name for name in ANCHORS if name not in weights], unknown=[])
    image_heads = stated[0] if image_heads is None else image_heads
    cell_heads = stated[1] if cell_heads is None else cell_heads
    model = _empty_model(infer_sizes(weights, image_heads, cell_heads, where))
    _check_weights(weights, model, where)
    weights.setdefault(OPTIONAL, torch.tensor([[0.0, -1.0]]))
    model.load_state_dict({n: t.float() for n, t in weights.items()}, assign=True)
    return model.requires_grad_(True)


def _empty_model(sizes: ReferenceSizes) -> ReferencePAST:
    """The network without memory for weights, which are assigned to it."""
    with torch.device("meta"):
        return ReferencePAST(sizes)


def _stated_heads(folder: Path) -> tuple[int, int]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["mode"] != "reference":
            raise ValueError(f"its mode is {config['mode']}")
        return int(config["image_heads"]), int(config["cell_heads"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "checkpoint.config",
            str(folder / CONFIG),
            f"It does not describe a reference model ({error!r}).",
            REMEDY,
        ) from error


def _read(path: Path) -> Weights:
    """Tensors of a file by name; nothing in it is run."""
    if not path.is_file():
        raise InputError("checkpoint.missing", str(path), "There is no such file.", REMEDY)
    held = read_tensor_file(path, "checkpoint")
    if path.suffix == ".safetensors":
        held = {"model": held}
    return _weights_of(held, path)


def _weights_of(held: object, path: Path) -> Weights:
    weights = held.get("model") if isinstance(held, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise InputError(
            "checkpoint.layout",
            str(path),
            'It has no tensors by name under "model".',
            REMEDY,
        )
    return weights


_IMAGE, _CELL = "image_encoder.model.", "cell_encoder."
# One tensor for each size.
ANCHORS = (
    _IMAGE + "patch_embed.proj.weight",
    _IMAGE + "pos_embed",
    _IMAGE + "blocks.0.mlp.fc1.weight",
    _CELL + "embeddings.weight",
    _CELL + "positional_embedding.weight",
    _CELL + "encoder.layers.0.linear1.weight",
    "graph_encoder.convs.0.lin.weight",
    "image_projection.fc.weight",
)


def infer_sizes(weights: Weights, image_heads: int, cell_heads: int, where: str) -> ReferenceSizes:
    """Sizes of the network that these tensors belong to.

    Raises:
        InputError: ``checkpoint.heads`` when heads do not divide a width; ``checkpoint.shape``.
    """
    patches, places, image_mlp, table, positions, cell_mlp, graph, project = (
        tuple(weights[name].shape) for name in ANCHORS
    )
    for name, dimensions in zip(ANCHORS, (4, 3, 2, 2, 2, 2, 2, 2), strict=True):
        if weights[name].ndim != dimensions:
            raise _wrong_shape(where, name, tuple(weights[name].shape), f"{dimensions} dimensions")
    grid = round((places[1] - 1) ** 0.5)
    if places[1] != grid * grid + 1:
        raise _wrong_shape(where, ANCHORS[1], places, "positions of a square and a class token")
    _check_heads("image_heads", image_heads, patches[0], where)
    _check_heads("cell_heads", cell_heads, table[1], where)
    _check_heads("the fusion's heads", FUSION_HEADS, table[1], where)
    return ReferenceSizes(
        patch=patches[2],
        grid=grid,
        image_dim=patches[0],
        image_depth=_depth(weights, _IMAGE + "blocks."),
        image_hidden=image_mlp[0],
        image_heads=image_heads,
        vocabulary=table[0],
        context=positions[0],
        cell_dim=table[1],
        cell_depth=_depth(weights, _CELL + "encoder.layers."),
        cell_hidden=cell_mlp[0],
        cell_heads=cell_heads,
        graph_hidden=graph[0],
        project=project[0],
    )


def _depth(weights: Weights, prefix: str) -> int:
    """One more than the highest layer number, so that a gap shows as missing tensors."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return 1 + max(int(found[1]) for found in map(pattern.match, weights) if found)


def _check_heads(name: str, heads: int, width: int, where: str) -> None:
    if heads < 1 or width % heads:
        raise InputError(
            "checkpoint.heads",
            where,
            f"{name} = {heads} does not divide the width {width}.",
            f"Give {name} as the model was trained; a head is often {64 if width >= 64 else 16} "
            "wide.",
        )


def _check_weights(weights: Weights, model: ReferencePAST, where: str) -> None:
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys() - {OPTIONAL})
    _check_keys(where, missing, sorted(weights.keys() - expected.keys()))
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise _wrong_shape(where, name, tuple(tensor.shape), str(tuple(expected[name].shape)))
        if not tensor.isfinite().all():
            raise InputError(
                "checkpoint.not_finite",
                where,
                f"{name} holds values that are not numbers: its training diverged.",
                "Take an earlier checkpoint.",
            )


def _check_keys(where: str, missing: list[str], unknown: list[str]) -> None:
    for names, what in ((missing, "are missing"), (unknown, "are not part of the model")):
        if names:
            raise InputError(
                "checkpoint.keys",
                where,
                f"{len(names)} of its tensors {what}: {', '.join(names[:4])}"
                f"{', …' if len(names) > 4 else ''}.",
                REMEDY,
            )


def _wrong_shape(where: str, name: str, shape: tuple[int, ...], expected: str) -> InputError:
    return InputError(
        "checkpoint.shape",
        where,
        f"{name} has the shape {shape}; the rest of the file needs {expected}.",
        REMEDY,
    )
