"""Random weights in owners' key names, and the networks of `transformers` that they belong to.

Names and shapes are written out here from the owners' configs and code, apart from ours.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"
Shapes = dict[str, tuple[int, ...]]
Weights = dict[str, Tensor]


def random_weights(shapes: Shapes, seed: int = 0) -> Weights:
    """Weights at which no layer is without effect: norms and scales near 1, the rest about 0."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=draw)
        near_one = name.endswith("weight") and len(shape) == 1
        if near_one or name.endswith(("gamma", "lambda1")):
            found[name] = 1 + 0.2 * values
        else:
            found[name] = 0.3 * values if len(shape) < 2 else values * shape[-1] ** -0.5
    return found


def timm_shapes(
    *, dim: int, depth: int, fc1: int, fc2: int, patch: int, places: int, registers: int = 0,
    layer_scale: bool = True,
) -> Shapes:  # fmt: skip
    """timm's VisionTransformer without a head."""
    found: Shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, places, dim)}
    if registers:
        found["reg_token"] = (1, registers, dim)
    found |= {"patch_embed.proj.weight": (dim, 3, patch, patch), "patch_embed.proj.bias": (dim,)}
    for block in range(depth):
        at = f"blocks.{block}."
        for norm in ("norm1", "norm2"):
            found |= {f"{at}{norm}.weight": (dim,), f"{at}{norm}.bias": (dim,)}
        found |= {f"{at}attn.qkv.weight": (3 * dim, dim), f"{at}attn.qkv.bias": (3 * dim,)}
        found |= {f"{at}attn.proj.weight": (dim, dim), f"{at}attn.proj.bias": (dim,)}
        found |= {f"{at}mlp.fc1.weight": (fc1, dim), f"{at}mlp.fc1.bias": (fc1,)}
        found |= {f"{at}mlp.fc2.weight": (dim, fc2), f"{at}mlp.fc2.bias": (dim,)}
        if layer_scale:
            found |= {f"{at}ls1.gamma": (dim,), f"{at}ls2.gamma": (dim,)}
    return found | {"norm.weight": (dim,), "norm.bias": (dim,)}


def _embeddings(dim: int, patch: int, places: int) -> Shapes:
    return {
        "embeddings.cls_token": (1, 1, dim),
        "embeddings.position_embeddings": (1, places, dim),
        "embeddings.patch_embeddings.projection.weight": (dim, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (dim,),
        "layernorm.weight": (dim,),
        "layernorm.bias": (dim,),
    }


def _layer(at: str, parts: dict[str, tuple[int, int]]) -> Shapes:
    found: Shapes = {}
    for part, (outputs, inputs) in parts.items():
        found |= {f"{at}{part}.weight": (outputs, inputs), f"{at}{part}.bias": (outputs,)}
    return found


def dinov2_shapes(*, dim: int, depth: int, hidden: int, patch: int, places: int) -> Shapes:
    """``Dinov2Model`` with SwiGLU, as transformers 4 writes it."""
    found = _embeddings(dim, patch, places) | {"embeddings.mask_token": (1, dim)}
    for number in range(depth):
        at = f"encoder.layer.{number}."
        found |= {f"{at}{n}.{k}": (dim,) for n in ("norm1", "norm2") for k in ("weight", "bias")}
        found |= {f"{at}layer_scale1.lambda1": (dim,), f"{at}layer_scale2.lambda1": (dim,)}
        attention = {f"attention.attention.{n}": (dim, dim) for n in ("query", "key", "value")}
        found |= _layer(at, attention | {"attention.output.dense": (dim, dim)})
        found |= _layer(at, {"mlp.weights_in": (2 * hidden, dim), "mlp.weights_out": (dim, hidden)})
    return found


def vit_shapes(*, dim: int, depth: int, hidden: int, patch: int, places: int) -> Shapes:
    """``ViTModel`` with its pooler, as transformers 4 writes it."""
    found = _embeddings(dim, patch, places) | _layer("pooler.", {"dense": (dim, dim)})
    for number in range(depth):
        at = f"encoder.layer.{number}."
        for norm in ("layernorm_before", "layernorm_after"):
            found |= {f"{at}{norm}.weight": (dim,), f"{at}{norm}.bias": (dim,)}
        attention = {f"attention.attention.{n}": (dim, dim) for n in ("query", "key", "value")}
        found |= _layer(at, attention | {"attention.output.dense": (dim, dim)})
        found |= _layer(at, {"intermediate.dense": (hidden, dim), "output.dense": (dim, hidden)})
    return found


def conch_shapes(*, dim: int, depth: int, patch: int, places: int, outputs: int) -> Shapes:
    """CONCH's whole file, the text towers but for one tensor each left out."""
    trunk = timm_shapes(
        dim=dim, depth=depth, fc1=4 * dim, fc2=4 * dim, patch=patch, places=places,
        layer_scale=False,
    )  # fmt: skip
    found: Shapes = {f"visual.trunk.{name}": shape for name, shape in trunk.items()}
    for kind, width, queries in (("contrast", outputs, 1), ("caption", dim, 256)):
        at = f"visual.attn_pool_{kind}."
        found |= {f"{at}query": (queries, width), f"{at}attn.in_proj_bias": (3 * width,)}
        if width == dim:
            found[f"{at}attn.in_proj_weight"] = (3 * width, width)
        else:
            found[f"{at}attn.q_proj_weight"] = (width, width)
            found |= {f"{at}attn.{n}_proj_weight": (width, dim) for n in "kv"}
        found |= _layer(at, {"attn.out_proj": (width, width)})
        for norm, of in ((f"{at}ln_q", width), (f"{at}ln_k", dim), (f"visual.ln_{kind}", width)):
            found |= {f"{norm}.weight": (of,), f"{norm}.bias": (of,)}
    found["visual.proj_contrast"] = (outputs, outputs)
    return found | {"logit_scale": (), "text.token_embedding.weight": (64, outputs)}


def opened(kind: str, config: dict[str, object], weights: Weights, folder: Path) -> nn.Module:
    """The network of `transformers` that reads these weights itself from a folder."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    network, report = getattr(transformers, kind).from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    assert not report["mismatched_keys"], report
    return network.eval()


def timm_in_transformers(
    weights: Weights, folder: Path, *, heads: int, size: int, patch: int, registers: int,
    positions: str, swiglu: bool,
) -> nn.Module:  # fmt: skip
    """A timm ViT as transformers' DINOv2 of the same function.

    Tokens with a position of their own are added up with it; class tokens without one get zero.
    """
    dim, depth = (
        weights["cls_token"].shape[2],
        1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
    )
    placed = {"patches": 0, "class": 1, "all": 1 + registers}[positions]
    first, places = weights["pos_embed"].tensor_split([placed], dim=1)
    of_class = first[:, :1] if placed else torch.zeros(1, 1, dim)
    moved = {
        "embeddings.cls_token": weights["cls_token"],
        "embeddings.mask_token": torch.zeros(1, dim),
        "embeddings.position_embeddings": torch.cat([of_class, places], dim=1),
        "embeddings.patch_embeddings.projection.weight": weights["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": weights["patch_embed.proj.bias"],
        "layernorm.weight": weights["norm.weight"],
        "layernorm.bias": weights["norm.bias"],
    }
    if registers:
        of_registers = first[:, 1:] if positions == "all" else torch.zeros(1, registers, dim)
        moved["embeddings.register_tokens"] = weights["reg_token"] + of_registers
    perceptron = ("weights_in", "weights_out") if swiglu else ("fc1", "fc2")
    for block in range(depth):
        old, new = f"blocks.{block}.", f"encoder.layer.{block}."
        for kind in ("weight", "bias"):
            qkv = weights[f"{old}attn.qkv.{kind}"].chunk(3)
            for part, tensor in zip(("query", "key", "value"), qkv, strict=True):
                moved[f"{new}attention.attention.{part}.{kind}"] = tensor.contiguous()
            moved[f"{new}attention.output.dense.{kind}"] = weights[f"{old}attn.proj.{kind}"]
            for norm in ("norm1", "norm2"):
                moved[f"{new}{norm}.{kind}"] = weights[f"{old}{norm}.{kind}"]
            for ours, theirs in zip(("fc1", "fc2"), perceptron, strict=True):
                moved[f"{new}mlp.{theirs}.{kind}"] = weights[f"{old}mlp.{ours}.{kind}"]
        for scale in "12":
            gamma = weights.get(f"{old}ls{scale}.gamma", torch.ones(dim))
            moved[f"{new}layer_scale{scale}.lambda1"] = gamma.clone()
    inner = weights["blocks.0.mlp.fc2.weight"].shape[1]
    config = {
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": dim, "num_hidden_layers": depth, "num_attention_heads": heads,
        "mlp_ratio": _ratio(inner, dim, swiglu), "use_swiglu_ffn": swiglu,
        "image_size": size, "patch_size": patch, "layer_norm_eps": 1e-6,
    }  # fmt: skip
    kind = "Dinov2WithRegistersModel" if registers else "Dinov2Model"
    if registers:
        config["num_register_tokens"] = registers
    return opened(kind, config, moved, folder)


def _ratio(inner: int, dim: int, swiglu: bool) -> int:
    """The whole number from which transformers makes this width of the perceptron."""
    ratio = (inner * 3 / 2 if swiglu else inner) / dim
    assert ratio == int(ratio)
    return int(ratio)
