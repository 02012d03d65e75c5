"""What training optimises with: parameter groups, schedule, moving average, and the saved state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ml.models.finetune import is_decayed, layer_scale
from ml.models.past import Member
from ml.training.engine import Optimisation

_ENCODER = "image_encoder.encoder."


def parameter_groups(member: nn.Module, how: Optimisation) -> list[dict[str, Any]]:
    """The parameters that are trained, in groups of one decay and one learning rate.

    Each group has ``lr_scale``, its share of the learning rate: 1, except for a trained image
    encoder, which learns at `encoder_scale`, and its deeper blocks faster than its first. The
    schedule multiplies by it (the authors' code overwrites it).
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    plain = {id(p) for m in member.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    for name, parameter in member.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = is_decayed(name, parameter) and id(parameter) not in plain
        decay = how.weight_decay if decayed else 0.0
        scale = 1.0
        if name.startswith(_ENCODER):
            scale = how.encoder_scale * layer_scale(member, name, how.layer_decay)
        group = {"params": [], "weight_decay": decay, "lr_scale": scale}
        groups.setdefault((scale, decay), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups, reverse=True)]


def adamw(member: nn.Module, how: Optimisation, learning_rate: float) -> torch.optim.AdamW:
    """AdamW as the paper has it."""
    return torch.optim.AdamW(parameter_groups(member, how), lr=learning_rate, betas=(0.9, 0.95))


def schedule(epoch: float, epochs: int, how: Optimisation) -> float:
    """Learning-rate factor: linear over the warm-up, cosine to the floor over the rest."""
    if epoch < how.warmup:
        return max(epoch / how.warmup, 0.05)
    along = (epoch - how.warmup) / max(epochs - how.warmup, 1e-9)
    return how.floor + (1 - how.floor) * 0.5 * (1 + math.cos(math.pi * min(along, 1.0)))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its share of the learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]


class MovingAverage:
    """Exponential moving average of the trained parameters.

    The decay starts low, min(decay, (1 + t) / (10 + t)), so that the first weights are soon
    forgotten. With a decay of 0 there is no average, and the weights are the weights.
    """

    def __init__(self, member: Member, decay: float) -> None:
        self._member, self.decay = member, decay
        self.steps = 0
        self.average = {n: p.detach().clone() for n, p in self._trained()} if decay else {}

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        return ((n, p) for n, p in self._member.named_parameters() if p.requires_grad)

    @torch.no_grad()
    def update(self) -> None:
        """Count in the weights of a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, parameter in self._trained():
            if name in self.average:
                self.average[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The member with averaged weights, for as long as this lasts."""
        own = {n: p.detach().clone() for n, p in self._trained()} if self.decay else {}
        self._set(self.average)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        parameters = dict(self._member.named_parameters())
        for name, value in values.items():
            parameters[name].copy_(value)

    def load(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Continue from a saved average."""
        for name, value in tensors.items():
            self.average[name].copy_(value)
        self.steps = steps


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
