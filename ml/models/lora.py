"""Low-rank adaptation of a transformer's attention (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.models.vit import Attention

ADDED = ("lora_down", "lora_up")


class LoraLinear(nn.Linear):
    """A frozen linear layer and a trainable product of two thin matrices beside it.

    It keeps the names ``weight`` and ``bias``, so that weights of the plain layer fit it. The
    product starts at zero: an adapted network computes at first what it computed before.

    Args:
        plain: the layer, whose tensors are taken over.
        rank: rows of the matrix down, columns of the matrix up.
        alpha: the product is added ``alpha / rank`` times.
    """

    def __init__(self, plain: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(
            plain.in_features, plain.out_features, plain.bias is not None, device="meta"
        )
        self.weight, self.bias = plain.weight, plain.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.scale = alpha / rank
        self.merged = False
        self.lora_down = nn.Parameter(self.weight.new_empty(rank, plain.in_features))
        self.lora_up = nn.Parameter(self.weight.new_zeros(plain.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_down, a=sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.linear(x, self.weight, self.bias)
        if self.merged:
            return out
        down = functional.linear(x, self.lora_down)
        return out + self.scale * functional.linear(down, self.lora_up)

    @torch.no_grad()
    def merge(self) -> None:
        """Adds the product to the weight, so that a forward pass costs what it did before."""
        if not self.merged:
            self.weight += self.scale * (self.lora_up @ self.lora_down)
            self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Takes the product out of the weight again, to the last bits of its rounding."""
        if self.merged:
            self.weight -= self.scale * (self.lora_up @ self.lora_down)
            self.merged = False


def adapt(encoder: nn.Module, rank: int = 8, alpha: float = 16.0) -> list[nn.Parameter]:
    """Freezes an encoder and adapts the query-key-value and output layers of its attention.

    Args:
        encoder: holds `Attention` layers that are not adapted yet; changed in place.
        rank, alpha: as `LoraLinear` says.

    Returns:
        The parameters that are trained: two for each adapted layer.

    Raises:
        ValueError: it has no attention, or is adapted already.
    """
    layers = [part for part in encoder.modules() if isinstance(part, Attention)]
    if not layers or any(isinstance(layer.qkv, LoraLinear) for layer in layers):
        raise ValueError("the encoder has no attention that could be adapted, or is adapted")
    for layer in layers:
        layer.qkv = LoraLinear(layer.qkv, rank, alpha)
        layer.proj = LoraLinear(layer.proj, rank, alpha)
    return train_added(encoder)


def train_added(encoder: nn.Module) -> list[nn.Parameter]:
    """Freezes all of an adapted encoder but what was added to it, which is returned."""
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(is_added(name))
    return [parameter for parameter in encoder.parameters() if parameter.requires_grad]


def is_added(name: str) -> bool:
    """Whether a parameter is one of an adaptation's, by its name."""
    return name.rsplit(".", 1)[-1] in ADDED


def merge(encoder: nn.Module) -> None:
    """Merges all adapted layers."""
    for layer in _adapted(encoder):
        layer.merge()


def unmerge(encoder: nn.Module) -> None:
    """Takes all adapted layers apart again."""
    for layer in _adapted(encoder):
        layer.unmerge()


def adapter_state(encoder: nn.Module) -> dict[str, Tensor]:
    """The trained matrices alone, which may be given on where the encoder's weights may not."""
    return {k: v for k, v in encoder.state_dict().items() if is_added(k)}


def plain_state(encoder: nn.Module) -> dict[str, Tensor]:
    """The merged weights under the names of the encoder that was adapted."""
    merge(encoder)
    return {k: v for k, v in encoder.state_dict().items() if not is_added(k)}


def _adapted(encoder: nn.Module) -> list[LoraLinear]:
    return [part for part in encoder.modules() if isinstance(part, LoraLinear)]
