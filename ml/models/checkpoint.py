"""Checkpoints: ``model.safetensors`` and ``config.json`` in a folder. Never pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ml.errors import InputError
from ml.models.config import ModelConfig
from ml.models.density import Density
from ml.models.intervals import Intervals
from ml.models.past import PAST
from ml.models.refinement import Refinement
from ml.models.types import TypeProbe

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_TYPES = "cell_types"
_DENSITY, _REFINEMENT = "density.", "refinement."


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(data, indent=1, allow_nan=False))
    temporary.replace(path)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write safetensors in the same all-or-nothing way."""
    temporary = path.with_name(path.name + ".part")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
    temporary.replace(path)


def save(model: PAST, folder: Path) -> None:
    """Write a model; the config comes last, so a folder with a config is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, model.state_dict())
    types = {_TYPES: model.types.names} if model.types is not None else {}
    write_json(folder / CONFIG, {**model.config.as_dict(), **types})


def load(folder: Path, device: torch.device | None = None) -> PAST:
    """Read a model in eval mode.

    Raises:
        InputError: ``model.missing``, ``model.config`` or ``model.weights`` when the folder is no
            model, its config cannot be read, or weights and config do not belong together.
    """
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise InputError(
                "model.missing",
                str(folder),
                f"It holds no {name}, so it is no model.",
                "Give the folder that training wrote.",
            )
    try:
        data = json.loads((folder / CONFIG).read_text())
        if data.get("mode") == "reference":
            raise InputError(
                "model.reference",
                str(folder),
                "It holds the published model, which is used from Python only.",
                'Load it with PAST.from_checkpoint(folder, mode="reference").',
            )
        config = ModelConfig.from_dict(data)
        types = [str(name) for name in data.get(_TYPES, [])]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "model.config",
            str(folder / CONFIG),
            f"It cannot be read as a model ({error!r}).",
            "Restore the file that training wrote beside the weights.",
        ) from error
    model = PAST(config)
    try:
        tensors = load_file(folder / WEIGHTS)
        fitted = {k.removeprefix(_DENSITY): v for k, v in tensors.items() if k.startswith(_DENSITY)}
        # Models saved before densities were fitted have none.
        model.density = Density.like(fitted) if "axes" in fitted else None
        weights = tensors.get(f"{_REFINEMENT}weights")
        model.refinement = None if weights is None else Refinement(*weights.shape)
        if types and "types.weight" in tensors:
            model.types = TypeProbe(types, tensors["types.weight"].shape[1])
        if "intervals.half_width" in tensors:
            model.intervals = Intervals(len(tensors["intervals.half_width"]))
        model.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(
            "model.weights",
            str(folder / WEIGHTS),
            f"The weights do not fit the config ({_what_differs(error)}).",
            "Restore both files from the same training.",
        ) from error
    return model.to(device or torch.device("cpu")).eval()


def _what_differs(error: Exception) -> str:
    """The first of the tensors that torch names as missing, unexpected or of another shape."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = "; ".join(lines[1:]) or lines[0]
    return said if len(said) <= 300 else f"{said[:300]} …"
