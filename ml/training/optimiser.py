"""What training optimises with: parameter groups, learning-rate schedule, and the saved state."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def parameter_groups(
    model: nn.Module, decay: float, names: tuple[str, ...] = ("",)
) -> list[dict[str, Any]]:
    """Weight decay for matrices only: none on biases, norms, scalars and embeddings.

    Args:
        names: beginnings of the names of the parameters that are trained.
    """
    plain = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trained = [
        p for name, p in model.named_parameters() if p.requires_grad and name.startswith(names)
    ]
    matrices = [p for p in trained if p.ndim > 1 and id(p) not in plain]
    rest = [p for p in trained if p.ndim <= 1 or id(p) in plain]
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def schedule(epoch: float, epochs: int) -> float:
    """Learning-rate factor: linear over the first epoch, cosine to zero over the rest."""
    if epoch < 1:
        return max(epoch, 0.05)
    return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / max(epochs - 1, 1)))


def optimiser_tensors(optimiser: torch.optim.Optimizer, member: nn.Module) -> dict[str, Tensor]:
    """The state of an optimiser by the names of the member's parameters."""
    names = {id(p): name for name, p in member.named_parameters()}
    return {
        f"{names[id(p)]}.{key}": value
        for p, state in optimiser.state.items()
        for key, value in state.items()
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer, member: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Give an optimiser the state of `optimiser_tensors`."""
    for name, parameter in member.named_parameters():
        state = {
            key: tensors[f"{name}.{key}"].to("cpu" if key == "step" else parameter.device)
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{name}.{key}" in tensors
        }
        if state:
            optimiser.state[parameter] = state
