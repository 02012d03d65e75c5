"""Owners' key names translated to those of our vision transformer, which are timm's.

Files written with timm need no translation. Those written with transformers name query, key and
value apart; ours have them in one matrix. What a file holds beside the image encoder is left out.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

Weights = dict[str, Tensor]

_EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_DINOV2_BLOCK = {
    "norm1": "norm1",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2": "norm2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
    "layer_scale2.lambda1": "ls2.gamma",
}
_VIT_BLOCK = {
    "layernorm_before": "norm1",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+?)(\.weight|\.bias)?")
_QUERY = "attention.attention.query"


def timm(weights: Weights) -> Weights:
    """Files written with timm: as they are."""
    return weights


def dinov2(weights: Weights) -> Weights:
    """``Dinov2Model`` of transformers; the mask token serves its pre-training only."""
    kept = {k: v for k, v in weights.items() if k != "embeddings.mask_token"}
    return _translate(kept, _DINOV2_BLOCK)


def transformers_vit(weights: Weights) -> Weights:
    """``ViTModel`` of transformers; its pooler was never trained."""
    kept = {k: v for k, v in weights.items() if not k.startswith("pooler.")}
    return _translate(kept, _VIT_BLOCK)


def conch(weights: Weights) -> Weights:
    """CONCH: of the whole CoCa, the image tower up to its contrastive vector."""
    plain = {k.removeprefix("module."): v for k, v in weights.items()}
    tower = {k.removeprefix("visual."): v for k, v in plain.items() if k.startswith("visual.")}
    caption = ("attn_pool_caption.", "ln_caption.", "proj_contrast")
    return {k: v for k, v in tower.items() if not k.startswith(caption)}


def _translate(weights: Weights, block: dict[str, str]) -> Weights:
    """Names of transformers to timm's; a name that is not known stays, so that the check tells."""
    found: Weights = {}
    for name, tensor in weights.items():
        layer = _LAYER.fullmatch(name)
        if layer is None:
            found[_EMBEDDINGS.get(name, name)] = tensor
            continue
        number, part, kind = layer[1], layer[2], layer[3] or ""
        if part in block:
            found[f"blocks.{number}.{block[part]}{kind}"] = tensor
        elif part == _QUERY:
            _join(weights, name, f"blocks.{number}.attn.qkv{kind}", found)
        elif not part.startswith("attention.attention."):
            found[name] = tensor
    return found


def _join(weights: Weights, query: str, name: str, found: Weights) -> None:
    """Query, key and value as one tensor under `name`, if all three are there."""
    parts = [query.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
    if all(part in weights for part in parts):
        found[name] = torch.cat([weights[part] for part in parts])
