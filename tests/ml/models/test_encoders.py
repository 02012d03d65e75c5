"""Every listed encoder gives what an implementation that is not ours gives with its weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from ml.errors import InputError
from ml.models import encoders, foundation, foundation_layouts
from ml.models.features import Scale, tile_features
from ml.models.vit import Shape, VisionTransformer
from tests.ml.models import owners

OWNERS = ("uni", "uni2_h", "virchow2", "h_optimus_0", "h0_mini", "midnight_12k", "phikon", "conch")
TIMM = {
    "uni": foundation.UNI,
    "uni2_h": foundation.UNI2_H,
    "virchow2": foundation.VIRCHOW2,
    "h_optimus_0": foundation.H_OPTIMUS_0,
    "h0_mini": foundation.H0_MINI,
}
DIM, DEPTH, HEADS, GRID = 48, 3, 3, 4


def small(shape: Shape) -> Shape:
    """The same network, narrow and shallow, its SwiGLU 4 / 3 of two thirds of 4 × its width."""
    hidden = 64 if shape.swiglu else 0
    return replace(shape, size=GRID * shape.patch, dim=DIM, depth=DEPTH, heads=HEADS, hidden=hidden)


def images(shape: Shape, rows: int = GRID, columns: int = GRID) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, rows * shape.patch, columns * shape.patch, generator=draw)


def small_timm(shape: Shape) -> owners.Weights:
    places = GRID * GRID + {"patches": 0, "class": 1, "all": 1 + shape.registers}[shape.positions]
    fc1, fc2 = (128, 64) if shape.swiglu else (4 * DIM, 4 * DIM)
    return owners.random_weights(
        owners.timm_shapes(
            dim=DIM, depth=DEPTH, fc1=fc1, fc2=fc2, patch=shape.patch, places=places,
            registers=shape.registers, layer_scale=shape.layer_scale is not None,
        )
    )  # fmt: skip


def assert_same(ours: nn.Module, theirs: nn.Module, image: torch.Tensor, registers: int) -> None:
    """Vector and map of patch tokens agree with the last hidden state of theirs."""
    with torch.no_grad():
        tokens = theirs(image).last_hidden_state
        vector, found = ours(image), ours.maps(image[:1])["tokens"][0]
    patches = tokens[:, 1 + registers :]
    expected = tokens[:, 0]
    if vector.shape[1] == 2 * DIM:
        expected = torch.cat([expected, patches.mean(1)], dim=1)
    torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)
    by_rows = found.permute(1, 2, 0).reshape(-1, DIM)
    torch.testing.assert_close(by_rows, patches[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TIMM)
def test_timm_encoders_agree_with_transformers(name, tmp_path):
    shape = small(TIMM[name])
    weights = small_timm(shape)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    ours = foundation.read_transformer(
        shape, tmp_path / "pytorch_model.bin", foundation_layouts.timm
    )
    theirs = owners.timm_in_transformers(
        weights, tmp_path / "theirs", heads=HEADS, size=shape.size, patch=shape.patch,
        registers=shape.registers, positions=shape.positions, swiglu=shape.swiglu,
    )  # fmt: skip
    assert_same(ours, theirs, images(shape), shape.registers)


@pytest.mark.parametrize("rows,columns", [(GRID, GRID), (6, 5), (3, 2)])
@pytest.mark.parametrize("name", ["midnight_12k", "phikon"])
def test_transformers_encoders_agree_at_any_size(name, rows, columns, tmp_path):
    swiglu = name == "midnight_12k"
    shape = small(foundation.MIDNIGHT if swiglu else foundation.PHIKON)
    sizes = {"dim": DIM, "depth": DEPTH, "patch": shape.patch, "places": GRID * GRID + 1}
    config = {
        "hidden_size": DIM, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
        "image_size": shape.size, "patch_size": shape.patch, "layer_norm_eps": 1e-6,
    }  # fmt: skip
    if swiglu:
        weights = owners.random_weights(owners.dinov2_shapes(**sizes, hidden=64))
        config |= {"model_type": "dinov2", "mlp_ratio": 2, "use_swiglu_ffn": True}
        theirs = owners.opened("Dinov2Model", config, weights, tmp_path)
        translate = foundation_layouts.dinov2
    else:
        weights = owners.random_weights(owners.vit_shapes(**sizes, hidden=4 * DIM))
        config |= {"model_type": "vit", "intermediate_size": 4 * DIM}
        vit = owners.opened("ViTModel", config, weights, tmp_path)
        theirs = Interpolating(vit)
        translate = foundation_layouts.transformers_vit
    ours = foundation.read_transformer(shape, tmp_path / "model.safetensors", translate)
    assert_same(ours, theirs, images(shape, rows, columns), 0)


class Interpolating(nn.Module):
    """transformers' ViT, asked to take images of any size."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, image: torch.Tensor):
        return self.vit(image, interpolate_pos_encoding=True)


def test_conch_agrees_with_torchs_attention_over_transformers_tokens(tmp_path):
    """Its trunk is held against transformers, its pooler against torch's own attention."""
    shape, outputs, heads = small(foundation.CONCH), 32, 4
    weights = owners.random_weights(
        owners.conch_shapes(dim=DIM, depth=DEPTH, patch=16, places=GRID * GRID + 1, outputs=outputs)
    )
    torch.save(weights, tmp_path / "pytorch_model.bin")
    ours = foundation.read_conch(
        shape, tmp_path / "pytorch_model.bin", outputs=outputs, heads=heads
    )
    trunk = {k[13:]: v for k, v in weights.items() if k.startswith("visual.trunk.")}
    theirs = owners.timm_in_transformers(
        trunk, tmp_path / "theirs", heads=HEADS, size=shape.size, patch=16, registers=0,
        positions="class", swiglu=False,
    )  # fmt: skip
    pool = {k[26:]: v for k, v in weights.items() if k.startswith("visual.attn_pool_contrast.")}
    attention = nn.MultiheadAttention(outputs, heads, kdim=DIM, vdim=DIM, batch_first=True)
    attention.load_state_dict({k[5:]: v for k, v in pool.items() if k.startswith("attn.")})
    normal = nn.functional.layer_norm
    with torch.no_grad():
        tokens = theirs(images(shape)).last_hidden_state
        keys = normal(tokens, (DIM,), pool["ln_k.weight"], pool["ln_k.bias"])
        query = normal(pool["query"], (outputs,), pool["ln_q.weight"], pool["ln_q.bias"])
        pooled = attention(query.expand(2, 1, -1), keys, keys)[0][:, 0]
        last = (weights["visual.ln_contrast.weight"], weights["visual.ln_contrast.bias"])
        torch.testing.assert_close(
            ours(images(shape)), normal(pooled, (outputs,), *last), atol=1e-5, rtol=1e-5
        )
        found = ours.maps(images(shape)[:1])["tokens"][0].flatten(1).T
    torch.testing.assert_close(found, tokens[0, 1:], atol=1e-5, rtol=1e-5)


def published() -> dict[str, owners.Shapes]:
    """Names and shapes of each owner's file, from their configs: widths as timm computes them."""
    imagenet, fourteen = 14 * 14, 16 * 16
    giant, virchow, mini = int(1536 * 5.33334), int(1280 * 5.3375), int(768 * 5.33334)
    timm = owners.timm_shapes
    return {
        "uni": timm(dim=1024, depth=24, fc1=4096, fc2=4096, patch=16, places=imagenet + 1),
        "uni2_h": timm(
            dim=1536, depth=24, fc1=giant, fc2=giant // 2, patch=14, places=fourteen, registers=8
        ),
        "virchow2": timm(
            dim=1280, depth=32, fc1=virchow, fc2=virchow // 2, patch=14, places=fourteen + 5,
            registers=4,
        ),
        "h_optimus_0": timm(
            dim=1536, depth=40, fc1=giant, fc2=giant // 2, patch=14, places=fourteen, registers=4
        ),
        "h0_mini": timm(
            dim=768, depth=12, fc1=mini, fc2=mini // 2, patch=14, places=fourteen, registers=4
        ),
        "midnight_12k": owners.dinov2_shapes(
            dim=1536, depth=40, hidden=4096, patch=14, places=fourteen + 1
        ),
        "phikon": owners.vit_shapes(dim=768, depth=12, hidden=3072, patch=16, places=imagenet + 1),
        "conch": owners.conch_shapes(dim=768, depth=12, patch=16, places=28 * 28 + 1, outputs=512),
    }  # fmt: skip


# Parameters in millions as stated, or 1.1 billion of the same network by its layers.
MILLIONS = {"uni": 303, "uni2_h": 681, "virchow2": 631, "h_optimus_0": 1135, "h0_mini": 86,
            "midnight_12k": 1135, "phikon": 86}  # fmt: skip


@pytest.mark.parametrize("name", OWNERS)
def test_every_key_and_shape_of_the_published_size(name):
    translate = {
        "midnight_12k": foundation_layouts.dinov2,
        "phikon": foundation_layouts.transformers_vit,
        "conch": foundation_layouts.conch,
    }.get(name, foundation_layouts.timm)
    entry = encoders.get(name)
    with torch.device("meta"):
        module = entry.empty()
        file = {key: torch.empty(shape) for key, shape in published()[name].items()}
    expected = {key: tuple(tensor.shape) for key, tensor in translate(file).items()}
    assert {key: tuple(t.shape) for key, t in module.state_dict().items()} == expected
    if name in MILLIONS:
        assert sum(p.numel() for p in module.parameters()) / 1e6 == pytest.approx(
            MILLIONS[name], abs=1
        )
    side = 448 if name == "conch" else 224
    vector = module(torch.empty(1, 3, side, side, device="meta"))
    assert vector.shape == (1, entry.dim)
    found = module.maps(torch.empty(1, 3, side, side, device="meta"))
    stride, channels = entry.maps["tokens"]
    assert found["tokens"].shape == (1, channels, side // stride, side // stride)


def test_facts_of_the_owners():
    entries = {name: encoders.get(name) for name in OWNERS}
    assert {n for n, e in entries.items() if e.gated} == set(OWNERS) - {"midnight_12k", "phikon"}
    assert [entries[n].dim for n in OWNERS] == [1024, 1536, 2560, 1536, 1536, 3072, 768, 512]
    assert all(e.weights.startswith("huggingface.co/") and e.files for e in entries.values())
    white = torch.full((1, 3, 1, 1), 255)
    shown = entries["h_optimus_0"].normalise(white).flatten()
    expected = (1 - np.array([0.707223, 0.578729, 0.703617])) / [0.211883, 0.230117, 0.177517]
    assert shown.numpy() == pytest.approx(expected, rel=1e-5)
    assert encoders.get("phikon").normalise(white).flatten()[0] == pytest.approx(2.2489, abs=1e-4)


def test_shrinking_positions_are_smoothed_as_pillow_does():
    """As timm resizes them: Pillow has that antialiased bicubic filter of its own."""
    shape = Shape(size=8 * 16, dim=DIM, depth=1, heads=3)
    vit = VisionTransformer(shape)
    places = vit._positions((3, 5))[0, 1:].detach().reshape(3, 5, DIM)
    stored = vit.pos_embed[0, 1:].detach().reshape(8, 8, DIM)
    for channel in range(0, DIM, 12):
        picture = Image.fromarray(stored[:, :, channel].numpy())
        expected = np.asarray(picture.resize((5, 3), Image.Resampling.BICUBIC))
        assert places[:, :, channel].numpy() == pytest.approx(expected, abs=1e-5)


def test_tokens_of_a_tile_lie_where_their_patches_lie():
    """A patch that differs changes the map most where it is; a cut edge is still covered."""
    torch.manual_seed(0)
    vit = VisionTransformer(Shape(size=64, dim=DIM, depth=1, heads=3)).eval()
    image = torch.zeros(1, 3, 64, 96)
    marked = image.clone()
    marked[:, :, 16:32, 64:80] = 3.0
    change = (vit.maps(marked)["tokens"] - vit.maps(image)["tokens"])[0].norm(dim=0)
    assert change.shape == (4, 6)
    assert divmod(int(change.argmax()), 6) == (1, 4)
    assert vit.maps(torch.zeros(1, 3, 50, 33))["tokens"].shape == (1, DIM, 4, 3)


def test_cells_are_pooled_from_patch_tokens_as_from_any_map():
    """One token's own window gives that token, through the entry that all dense encoders share."""
    torch.manual_seed(0)
    shape = Shape(size=56, patch=14, dim=DIM, depth=1, heads=3)
    vit = VisionTransformer(shape).eval()
    entry = replace(encoders.get("h0_mini"), maps={"tokens": (14, DIM)})
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    scale = Scale(0.5, {"tokens": (7.0,)})
    centre = np.array([[14 * 3 + 7.0, 14 * 2 + 7.0]])
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    found = tile_features(pixels, [torch.from_numpy(centre)], scale, vit, entry)
    token = vit.maps(entry.normalise(pixels))["tokens"][0, :, 2, 3]
    assert found[0].numpy() == pytest.approx(token.numpy(), abs=1e-5)


def test_sizes_that_are_no_multiple_of_the_patch_are_refused():
    with pytest.raises(InputError) as caught:
        VisionTransformer()(torch.zeros(1, 3, 112, 100))
    assert caught.value.code == "image.size"


def test_weights_of_another_grid_are_taken(tmp_path):
    """A file whose positions are for larger images says so by their number."""
    shape = small(foundation.MIDNIGHT)
    sizes = {"dim": DIM, "depth": DEPTH, "patch": 14, "hidden": 64}
    weights = owners.random_weights(owners.dinov2_shapes(**sizes, places=37 * 37 + 1))
    save_file(weights, tmp_path / "model.safetensors")
    ours = foundation.read_transformer(
        shape, tmp_path / "model.safetensors", foundation_layouts.dinov2
    )
    assert ours.shape.size == 518
    assert ours(torch.zeros(1, 3, 56, 56)).shape == (1, 2 * DIM)
