"""Weight files of other people, read without running anything that is stored in them."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ml.errors import InputError


def read_tensor_file(path: Path, kind: str) -> object:
    """What a safetensors or torch file holds, on the CPU.

    Args:
        kind: first part of the errors' codes, ``checkpoint`` or ``encoder``.

    Raises:
        InputError: ``KIND.code`` or ``KIND.unreadable``.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        held: object = torch.load(path, map_location="cpu", weights_only=True)
        return held
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{kind}.code",
            str(path),
            f"Reading it would run code that is stored in it ({_called(error)}).",
            "Take the file from its owner again, or ask them for safetensors.",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{kind}.unreadable",
            str(path),
            f"It is neither safetensors nor a torch file ({_first_line(error)}).",
            "Take the file from its owner again; it may be incomplete.",
        ) from error


def _called(error: Exception) -> str:
    """What a pickle wants to call, as far as torch says so."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else "or it is damaged"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
