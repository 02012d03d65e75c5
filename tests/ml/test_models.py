"""The networks: what must not matter does not, what must matter does, files come back the same."""

import json

import numpy as np
import pytest
import torch

from ml.errors import InputError
from ml.models import checkpoint, encoders
from ml.models.cell_encoder import CellEncoder
from ml.models.config import Architecture, ModelConfig
from ml.models.features import FeatureSpec, Scale, default_spec, tile_features
from ml.models.losses import info_nce, near_pairs
from ml.models.neighbourhood import Neighbourhood
from ml.models.past import PAST, CellBatch, ImageBatch, LossWeights
from ml.models.pooling import window_means
from ml.models.stain import FEATURES, densities, features_of_means, stain_maps
from ml.models.vit import Shape, VisionTransformer
from ml.tokens.vocabulary import PAD, Vocabulary


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def config():
    spec = FeatureSpec("efficientnet_lite0", (Scale(0.5, {"stain": (28.0,), "s8": (28.0,)}),))
    symbols = tuple(f"G{i}" for i in range(6))
    return ModelConfig(
        encoder="efficientnet_lite0",
        features=spec,
        architecture=Architecture(dim=16, hidden=16, project=8, rank=4, cell_layers=1, context=5),
        vocabulary=Vocabulary(symbols, np.linspace(1, 2, 6, dtype=np.float32)),
        row_kind="cell",
        spot_diameter_um=None,
        spot_pitch_um=None,
        mpp=0.5,
    )


def batch(config, n=4, k=3):
    dim = config.features.dim
    return ImageBatch(
        torch.randn(n, dim), torch.randn(n, k, dim), torch.rand(n, k) * 50,
        torch.zeros(n, k, dtype=torch.bool),
    )  # fmt: skip


def randomised(model):
    """Every weight drawn anew, so that paths that start silent are heard."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_padding_changes_neither_attention_nor_mean():
    encoder = CellEncoder(40, 8, 16, 2, 4, 0.0).eval()
    short = torch.tensor([[31, 35, 38]])
    padded = torch.tensor([[31, 35, 38, PAD, PAD, PAD, PAD, PAD], list(range(30, 38))])
    assert torch.allclose(encoder(padded)[0], encoder(short)[0], atol=1e-6)


def test_rank_matters_and_a_cell_without_tokens_is_zero():
    encoder = CellEncoder(40, 3, 16, 1, 4, 0.0).eval()
    found = encoder(torch.tensor([[31, 35, 38], [38, 35, 31], [PAD, PAD, PAD]]))
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    assert torch.equal(found[2], torch.zeros(16))
    assert torch.isfinite(found).all()


def test_order_of_neighbours_and_absent_ones_do_not_matter_but_distance_does():
    module = randomised(Neighbourhood(16, 4, 30.0, 0.0))
    torch.nn.init.constant_(module.log_length, 3.4)
    centre, near = torch.randn(5, 16), torch.randn(5, 3, 16)
    distance, absent = torch.rand(5, 3) * 60, torch.zeros(5, 3, dtype=torch.bool)
    found = module(centre, near, distance, absent)
    order = [2, 0, 1]
    assert torch.allclose(
        module(centre, near[:, order], distance[:, order], absent), found, atol=1e-5
    )
    more = torch.cat([near, torch.full((5, 1, 16), 9.0)], 1)
    hidden = torch.cat([absent, torch.ones(5, 1, dtype=torch.bool)], 1)
    farther = torch.cat([distance, torch.zeros(5, 1)], 1)
    assert torch.allclose(module(centre, more, farther, hidden), found, atol=1e-5)
    assert not torch.allclose(module(centre, near, distance + 100, absent), found, atol=1e-3)
    far = module(centre, near, distance + 1e6, absent)
    alone = module(centre, near[:, :0], distance[:, :0], absent[:, :0])
    assert torch.allclose(far, alone, atol=1e-5)


def test_info_nce_is_clips_loss_and_leaves_near_rows_out():
    image = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    cell = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    temperature, none = torch.tensor(0.1), torch.zeros(4, 4, dtype=torch.bool)
    logits = (image @ cell.T / 0.1).numpy()
    rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    columns = logits - np.log(np.exp(logits).sum(0, keepdims=True))
    expected = -(np.diag(rows).mean() + np.diag(columns).mean()) / 2
    assert float(info_nce(image, cell, temperature, none)) == pytest.approx(expected, rel=1e-5)
    # With all others near, nothing is left to be told apart.
    assert float(info_nce(image, cell, temperature, ~none)) == pytest.approx(0.0, abs=1e-6)


def test_near_pairs_are_within_one_slide():
    xy = torch.tensor([[0.0, 0.0], [10.0, 0.0], [100.0, 0.0]])
    found = near_pairs(xy, torch.tensor([0, 0, 1]), 28.0)
    assert found[0, 1] and not found[0, 2]
    assert not near_pairs(xy, torch.tensor([0, 1, 1]), 28.0)[0, 1]


@pytest.mark.parametrize("centre", [(10.0, 12.0), (10.3, 11.8), (31.9, 0.2)])
def test_window_means_equal_a_direct_integral(centre):
    maps = torch.rand(3, 24, 32)
    side = 5.5
    fine = maps.repeat_interleave(10, 1).repeat_interleave(10, 2)
    left, right = ((centre[0] + s * side / 2) * 10 for s in (-1, 1))
    top, bottom = ((centre[1] + s * side / 2) * 10 for s in (-1, 1))

    def cover(low, high, size):
        edge = torch.arange(size)
        return (torch.clamp(edge + 1, max=high) - torch.clamp(edge, min=low)).clamp_min(0)

    weight = cover(top, bottom, 240)[:, None] * cover(left, right, 320)[None, :]
    expected = (fine * weight).sum((1, 2)) / weight.sum()
    found = window_means(maps, torch.tensor([centre]), [side])[0][0]
    assert torch.allclose(found, expected, atol=1e-4)


def test_stain_features_are_means_and_deviations_of_the_window():
    image = torch.randint(0, 255, (3, 64, 64))
    found = features_of_means(
        window_means(stain_maps(image), torch.tensor([[16.0, 16.0]]), [32.0])[0]
    )
    by_name = dict(zip(FEATURES, found[0].tolist(), strict=True))
    assert by_name["red_mean"] == pytest.approx(float((image[0] / 255).mean()), abs=1e-4)
    assert by_name["red_sd"] == pytest.approx(float((image[0] / 255).std()), abs=1e-3)
    density = densities(image)
    assert by_name["eosin_mean"] == pytest.approx(float(density[1].mean()), abs=1e-3)


def test_haematoxylin_and_eosin_are_told_apart():
    colours = torch.tensor([[90, 70, 150], [230, 130, 180]]).T[:, :, None].float()
    density = densities(colours)
    assert density[0, 0] > density[1, 0]
    assert density[1, 1] > density[0, 1]


def test_features_do_not_depend_on_where_the_tile_lies():
    entry = encoders.get("efficientnet_lite0")
    encoder = entry.build()
    image = np.random.default_rng(0).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    scale = Scale(0.5, {"stain": (28.0,), "s4": (10.0,), "s8": (28.0,)})
    device = torch.device("cpu")
    whole = tile_features(image, np.array([[256.3, 256.0]]), scale, encoder, entry, device)
    moved = image[64:, 32:][:416, :416]
    found = tile_features(moved, np.array([[224.3, 192.0]]), scale, encoder, entry, device)
    assert found == pytest.approx(whole, abs=1e-3)
    elsewhere = tile_features(moved, np.array([[200.3, 192.0]]), scale, encoder, entry, device)
    assert np.abs(elsewhere - whole).max() > 0.05


def test_encoders_are_listed_and_unknown_ones_refused():
    assert {"efficientnet_lite0", "vit_tiny", "vit_small"} <= set(encoders.names())
    with pytest.raises(InputError, match="vit_tiny"):
        encoders.get("vit_enormous")


def test_vit_has_timms_names_and_shapes():
    model = VisionTransformer(Shape(size=32, dim=24, depth=2, heads=3))
    names = set(model.state_dict())
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.1.attn.qkv.weight",
                 "blocks.1.mlp.fc2.bias", "norm.weight"):  # fmt: skip
        assert name in names
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 24)


def test_default_features_are_multiscale():
    spec = default_spec("cell", None)
    assert FeatureSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec
    assert spec.dim == sum(count for *_, count in spec.blocks)
    assert len(spec.columns("stain", 112.0)) == len(FEATURES)
    assert default_spec("spot", 55.0).scales[0].mpp == pytest.approx(0.55)


def test_losses_obey_their_weights(config):
    model = randomised(PAST(config))
    cells = CellBatch(
        torch.randint(30, 36, (4, 5)), torch.rand(4, 6), torch.rand(4, 2) * 1e4, torch.zeros(4)
    )
    images = batch(config)
    both = model.members[0].losses(images, cells, LossWeights(expression=1.0, contrast=0.5))
    assert set(both) == {"expression", "contrast"}
    only = model.members[0].losses(images, cells, LossWeights(expression=2.0, contrast=0.0))
    assert set(only) == {"expression"}
    assert float(only["expression"]) == pytest.approx(2 * float(both["expression"]), rel=1e-5)


def test_a_checkpoint_comes_back_the_same(config, tmp_path):
    model = randomised(PAST(config))
    checkpoint.save(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    images = batch(config)
    assert torch.equal(loaded.predict(images), model.predict(images))
    assert torch.equal(loaded.encode_image(images), model.encode_image(images))
    assert loaded.config.as_dict() == model.config.as_dict()
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"model.safetensors", "config.json"}


@pytest.mark.parametrize("damage", ["missing", "config", "weights", "mismatch"])
def test_damaged_checkpoints_are_refused(config, tmp_path, damage):
    folder = tmp_path / "model"
    checkpoint.save(PAST(config), folder)
    code = "weights"
    if damage == "missing":
        (folder / "config.json").unlink()
        code = "missing"
    elif damage == "config":
        (folder / "config.json").write_text('{"encoder": "efficientnet_lite0"')
        code = "config"
    elif damage == "weights":
        (folder / "model.safetensors").write_bytes(b"\x80\x04pickled")
    else:
        data = json.loads((folder / "config.json").read_text())
        data["architecture"]["dim"] = 32
        (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(InputError) as caught:
        checkpoint.load(folder)
    assert caught.value.code == f"model.{code}"
