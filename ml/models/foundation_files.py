"""Files with the weights of foundation encoders, in their owners' own key names.

Nothing is downloaded. A file is ``.safetensors``, or ``.bin`` or ``.pth`` that is read without
running any code in it. Errors, each an InputError: ``encoder.weights`` (no file was given),
``.missing`` (no such file), ``.code`` (a pickle that would run code), ``.unreadable`` (neither
format), ``.layout`` (no tensors by name), ``.keys`` (tensors missing or not known), ``.shape``,
``.not_finite``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ml.errors import InputError
from ml.io.store import content_hash
from ml.models.encoder_list import FOLDER
from ml.models.encoders import EncoderEntry
from ml.models.tensor_files import read_tensor_file
from ml.models.vit import Shape, VisionTransformer

Weights = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


def find(entry: EncoderEntry, path: Path | None) -> Path:
    """The file to read.

    Args:
        path: a file, or a folder with one of ``entry.files``; None looks in the folder of the
            encoder's name in the one that the environment variable `FOLDER` names.

    Raises:
        InputError ``encoder.weights``, ``encoder.missing``.
    """
    remedy = (
        f"Get {' or '.join(entry.files)} from its owner ({entry.weights}; licence "
        f"{entry.licence}{'; they ask for an agreement' if entry.gated else ''}) and give its path."
    )
    if path is None:
        shelf = os.environ.get(FOLDER)
        path = Path(shelf) / entry.name if shelf else None
        if path is None or not path.is_dir():
            raise InputError(
                "encoder.weights",
                f"encoder {entry.name}",
                "Its weights are its owner's and are not part of this project; no file was given.",
                f"{remedy[:-1]}, or put it in the folder {entry.name} of the one that {FOLDER} "
                "names.",
            )
    if path.is_dir():
        held = [path / name for name in entry.files if (path / name).is_file()]
        path = held[0] if held else path / entry.files[0]
    if not path.is_file():
        raise InputError("encoder.missing", str(path), "There is no such file.", remedy)
    return path


def read_tensors(path: Path) -> Weights:
    """Tensors of a file by name; nothing in it is run.

    Raises:
        InputError ``encoder.code``, ``encoder.unreadable``, ``encoder.layout``.
    """
    held = read_tensor_file(path, "encoder")
    if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
        raise InputError(
            "encoder.layout",
            str(path),
            "It holds no plain table of tensors by name.",
            "Give the file as its owner publishes it.",
        )
    return held


def with_grid(shape: Shape, weights: Weights, name: str = "pos_embed") -> Shape:
    """The shape with the image size that the stored position embeddings are for."""
    places = weights[name].shape[1] if name in weights and weights[name].ndim == 3 else 0
    grid = isqrt(max(places - shape.placed, 0))
    if not grid or grid * grid + shape.placed != places:
        return shape  # Not a square grid: the check of the shapes says so.
    return replace(shape, size=grid * shape.patch)


def fill(build: Callable[[], Module], weights: Weights, where: str) -> Module:
    """A module built without memory of its own, with these weights in it, in eval mode, frozen.

    Raises:
        InputError ``encoder.keys``, ``encoder.shape``, ``encoder.not_finite``.
    """
    with torch.device("meta"):
        module = build()
    check(weights, module.state_dict(), where)
    module.load_state_dict({k: v.float() for k, v in weights.items()}, assign=True)
    for part in module.modules():
        if isinstance(part, VisionTransformer):
            patches = part.patch_embed.proj.weight
            patches.data = patches.data.contiguous(memory_format=torch.channels_last)
    return module.eval().requires_grad_(False)


def check(weights: Weights, expected: Weights, where: str) -> None:
    """Refuses weights that are not exactly those of the encoder."""
    remedy = "Give the file as its owner publishes it for this very encoder."
    for names, what in (
        (sorted(expected.keys() - weights.keys()), "are missing"),
        (sorted(weights.keys() - expected.keys()), "are not part of this encoder"),
    ):
        if names:
            some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
            what = f"{len(names)} of its tensors {what}: {some}."
            raise InputError("encoder.keys", where, what, remedy)
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                "encoder.shape",
                where,
                f"{name} has the shape {tuple(tensor.shape)}; this encoder needs "
                f"{tuple(expected[name].shape)}.",
                remedy,
            )
        if not tensor.isfinite().all():
            raise InputError(
                "encoder.not_finite",
                where,
                f"{name} holds values that are not numbers.",
                "Take the file from its owner again.",
            )


def sha256(path: Path) -> str:
    """Hash of the file, which a model's provenance keeps."""
    return content_hash(path)[0]
