"""Fine-tuning a vision transformer: learning rates by depth, freezing, less memory."""

from __future__ import annotations

import re

from torch import nn

from ml.models.vit import EMBEDDINGS, VisionTransformer

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


def layer_scale(model: nn.Module, name: str, decay: float) -> float:
    """Share of the learning rate that a parameter of an image encoder has by its depth.

    What lies after the blocks learns at the full rate, the last block at `decay` times that, and so
    on to the embeddings. An encoder without blocks learns at the full rate throughout.

    Args:
        model: holds the encoder, one `VisionTransformer` or none.
        name: of the parameter in it.
    """
    found = [part for part in model.modules() if isinstance(part, VisionTransformer)]
    if len(found) != 1:
        return 1.0
    depth = found[0].shape.depth
    return float(decay ** (depth + 1 - layer_of(name, depth)))


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
