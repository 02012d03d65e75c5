"""The encoder that a slide is seen through: an owner's or a package's, or the model's own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ml.errors import InputError
from ml.models import encoders
from ml.models.config import ModelConfig
from ml.models.encoders import EncoderEntry
from ml.models.foundation_files import find


@dataclass(frozen=True)
class Loaded:
    """An encoder with its weights, on the device that it computes on."""

    entry: EncoderEntry
    module: nn.Module
    device: torch.device

    @property
    def sha256(self) -> str | None:
        """Hash of the owner's file; None for encoders that need none."""
        found: str | None = getattr(self.module, "weights_sha256", None)
        return found


def load_encoder(name: str, where: torch.device) -> Loaded:
    """A frozen encoder; its weights are read once in a process.

    Raises:
        InputError: ``encoder.unknown``, and those of `ml.models.foundation_files`.
    """
    entry = encoders.get(name)
    if not entry.files:
        return Loaded(entry, _module(name, None, 0, where), where)
    file = find(entry, None)
    return Loaded(entry, _module(name, file, file.stat().st_mtime_ns, where), where)


@functools.lru_cache(maxsize=1)
def _module(name: str, file: Path | None, _changed: int, where: torch.device) -> nn.Module:
    return encoders.get(name).load(file).to(where)


def encoder_of(config: ModelConfig, where: torch.device) -> Loaded:
    """The frozen encoder that a model of features was trained with.

    Raises:
        InputError: ``encoder.changed`` when it is another file, and those of `load_encoder`.
    """
    loaded = load_encoder(config.encoder, where)
    trained_with = config.provenance.get("encoder", {}).get("sha256")
    if trained_with and trained_with != loaded.sha256:
        raise InputError(
            "encoder.changed",
            f"encoder {config.encoder}",
            f"The model was trained with the file of SHA-256 {trained_with}; the one that is here "
            f"has {loaded.sha256}.",
            f"Put the file that it was trained with back ({loaded.entry.weights}), or train "
            "a model with the new one.",
        )
    return loaded
