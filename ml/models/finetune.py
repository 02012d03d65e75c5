"""Fine-tuning a vision transformer: learning rates by depth, freezing, less memory."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ml.models.vit import EMBEDDINGS, VisionTransformer

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


def parameter_groups(
    encoder: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 0.75
) -> list[dict[str, Any]]:
    """Groups for an optimiser, with learning rates that fall towards the image.

    What lies after the blocks learns at `learning_rate`, the last block at `layer_decay` times
    that, and so on to the embeddings. Norms, biases, LayerScale and the embeddings of class token,
    registers and positions are not decayed.

    Args:
        encoder: holds one `VisionTransformer`; frozen parameters are left out.
        learning_rate: the highest.
        weight_decay: of the matrices.
        layer_decay: factor from a layer to the one before it.

    Returns:
        Dicts with ``params``, ``lr``, ``weight_decay`` and ``lr_scale``, the share of
        `learning_rate`: a schedule that sets rates must multiply by it or it undoes them.

    Raises:
        ValueError: the encoder has no or several vision transformers.
    """
    depth = transformer(encoder).shape.depth
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in encoder.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, decayed = layer_of(name, depth), is_decayed(name, parameter)
        scale = layer_decay ** (depth + 1 - layer)
        group = groups.setdefault(
            (layer, decayed),
            {
                "params": [],
                "lr": learning_rate * scale,
                "lr_scale": scale,
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def layer_of(name: str, depth: int) -> int:
    """0 for what comes before the blocks, 1 to `depth` for them, one more for what follows."""
    block = _BLOCK.search(name)
    if block is not None:
        return 1 + int(block[1])
    before = name.rsplit(".", 1)[-1] in EMBEDDINGS or "patch_embed." in name
    return 0 if before else depth + 1


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay is for this parameter: matrices and kernels, learnt tokens apart."""
    return parameter.ndim > 1 and name.rsplit(".", 1)[-1] not in (*EMBEDDINGS, "query")


def freeze(encoder: nn.Module, blocks: int) -> None:
    """Freezes the first `blocks` blocks and what comes before them; the rest is trained.

    0 trains everything. With all blocks frozen, what follows them is still trained.
    """
    depth = transformer(encoder).shape.depth
    if not 0 <= blocks <= depth:
        raise ValueError(f"{blocks} of {depth} blocks cannot be frozen")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(blocks == 0 or layer_of(name, depth) > blocks)


def checkpoint_gradients(encoder: nn.Module, on: bool = True) -> None:
    """Computes each block twice in training and keeps its input only: memory for time."""
    transformer(encoder).checkpointing = on


def transformer(encoder: nn.Module) -> VisionTransformer:
    """The one vision transformer of an encoder. Raises ValueError when there is no such one."""
    found = [part for part in encoder.modules() if isinstance(part, VisionTransformer)]
    if len(found) != 1:
        raise ValueError(f"the encoder has {len(found)} vision transformers")
    return found[0]
