"""The networks: what must not matter does not, what must matter does, files come back the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.errors import InputError
from ml.models import checkpoint, encoders
from ml.models.batches import CellBatch, CropBatch, FeatureBatch
from ml.models.cell_encoder import CellEncoder, MaskedGeneHead, masked
from ml.models.config import Architecture, ModelConfig
from ml.models.features import FeatureSpec, Scale, default_spec, tile_features
from ml.models.losses import info_nce, near_pairs, negative_binomial, squared_error
from ml.models.neighbourhood import Neighbourhood
from ml.models.past import PAST, LossWeights
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
    return FeatureBatch(
        torch.randn(n, dim), torch.randn(n, k, dim), torch.rand(n, k) * 50,
        torch.zeros(n, k, dtype=torch.bool),
    )  # fmt: skip


def measured(n=4, k=3, genes=6):
    """Cells with neighbours, of one slide, far from each other."""
    counts = torch.poisson(torch.full((n, genes), 3.0))
    return CellBatch(
        torch.randint(30, 30 + genes, (n, 5)), torch.randint(30, 30 + genes, (n, k, 5)),
        torch.rand(n, k) * 50, torch.zeros(n, k, dtype=torch.bool), counts, counts.sum(1), None,
        torch.rand(n, 2) * 1e4, torch.zeros(n, dtype=torch.long),
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

    def features(image, centre):
        pixels = torch.tensor(image).permute(2, 0, 1)[None]
        return tile_features(pixels, [torch.tensor([centre])], scale, encoder, entry).numpy()

    whole = features(image, (256.3, 256.0))
    moved = image[64:, 32:][:416, :416]
    found = features(moved, (224.3, 192.0))
    assert found == pytest.approx(whole, abs=1e-3)
    elsewhere = features(moved, (200.3, 192.0))
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


def test_losses_obey_their_weights_and_what_has_none_is_not_computed(config):
    member = randomised(PAST(config)).members[0]
    images, cells = batch(config), measured()
    both = member(images, cells, LossWeights(expression=1.0, counts=1.0, masked_gene=0.5))
    assert set(both.losses) == {"expression", "counts", "masked_gene"}
    assert both.image.shape == both.cell.shape == (4, 8)
    only = member(images, cells, LossWeights(2.0, 0.0, 0.0, 0.0))
    assert set(only.losses) == {"expression"} and only.image is only.cell is None
    assert float(only.losses["expression"].detach()) == pytest.approx(
        2 * float(both.losses["expression"].detach()), rel=1e-5
    )
    genes = member(images, cells, LossWeights(0.0, 0.0, 0.0, 1.0))
    assert set(genes.losses) == {"masked_gene"}


def test_losses_are_means_over_rows(config):
    """Batches of different sizes add up by their numbers of rows."""
    member = randomised(PAST(config)).members[0]
    images, cells = batch(config, n=6), measured(n=6)
    weights = LossWeights(expression=1.0, counts=1.0, contrast=0.0, masked_gene=0.0)
    whole = member(images, cells, weights).losses

    def part(of, rows):
        return type(of)(*[None if value is None else value[rows] for value in of])

    first, rest = slice(0, 2), slice(2, 6)
    a = member(part(images, first), part(cells, first), weights).losses
    b = member(part(images, rest), part(cells, rest), weights).losses
    for name in ("expression", "counts"):
        assert torch.allclose(whole[name], (2 * a[name] + 4 * b[name]) / 6, rtol=1e-5)


def test_a_cell_and_its_neighbours_do_not_depend_on_order_or_padding(config):
    member = randomised(PAST(config)).members[0]
    cells = measured()
    found = member.embed_cell(cells)
    order = [2, 0, 1]
    turned = cells._replace(
        neighbour_tokens=cells.neighbour_tokens[:, order],
        distance_um=cells.distance_um[:, order],
    )
    assert torch.allclose(member.embed_cell(turned), found, atol=1e-5)
    # Shorter neighbours, with and without the padding that a wider batch would bring.
    short = cells._replace(neighbour_tokens=cells.neighbour_tokens[:, :, :3])
    pad = torch.full((4, 3, 2), PAD)
    wide = cells._replace(neighbour_tokens=torch.cat([short.neighbour_tokens, pad], 2))
    assert torch.allclose(member.embed_cell(wide), member.embed_cell(short), atol=1e-5)
    assert not torch.allclose(member.embed_cell(short), found, atol=1e-3)
    farther = cells._replace(distance_um=cells.distance_um + 200)
    assert not torch.allclose(member.embed_cell(farther), found, atol=1e-4)


def test_gradients_reach_the_neighbours_only_where_asked(config):
    for through in (False, True):
        own = replace(
            config, architecture=replace(config.architecture, neighbour_gradients=through)
        )
        member = randomised(PAST(own)).members[0]
        cells = measured()
        cells.tokens[:] = 30
        cells.neighbour_tokens[:] = 31
        member.embed_cell(cells).sum().backward()
        reached = member.cell_encoder.embeddings.weight.grad[31].abs().sum() > 0
        assert bool(reached) is through


def test_groups_of_lengths_change_nothing():
    encoder = CellEncoder(40, 12, 16, 2, 4, 0.0).eval()
    lengths = torch.randint(0, 13, (100,))
    tokens = torch.randint(30, 40, (100, 12))
    tokens[torch.arange(12) >= lengths[:, None]] = PAD
    assert len(list(encoder.encoded(tokens))) > 2
    one_by_one = torch.cat([encoder(row[None]) for row in tokens])
    assert torch.allclose(encoder(tokens), one_by_one, atol=1e-5)


def test_without_pad_mask_the_mean_runs_over_padding():
    kept = CellEncoder(40, 8, 16, 1, 4, 0.0).eval()
    over = CellEncoder(40, 8, 16, 1, 4, 0.0, pad_mask=False).eval()
    over.load_state_dict(kept.state_dict())
    full, short = torch.randint(30, 40, (2, 8)), torch.tensor([[31, 35, 38]])
    assert torch.allclose(over(full), kept(full), atol=1e-6)
    assert not torch.allclose(over(short), kept(short), atol=1e-2)


def test_genes_are_hidden_at_random_and_at_least_one_of_each_cell():
    tokens = torch.randint(30, 40, (2000, 20))
    tokens[:1000, 3:] = PAD
    tokens[0] = PAD
    seen, hidden = masked(tokens, 0.15)
    assert torch.equal(seen == 0, hidden)
    assert torch.equal(seen[~hidden], tokens[~hidden])
    assert not hidden[tokens == PAD].any() and not hidden[0].any()
    genes = (tokens >= 30).sum(1)
    assert torch.equal(hidden.sum(1), (genes * 15 + 99) // 100)
    assert float(hidden[1000:].float().mean()) == pytest.approx(0.15, abs=0.01)


def test_masked_gene_loss_is_the_literal_one():
    encoder, head = CellEncoder(40, 6, 16, 1, 4, 0.0).eval(), MaskedGeneHead(16, 10)
    tokens = torch.randint(30, 40, (40, 6))
    tokens[5:20, 4:] = PAD
    seen, hidden = masked(tokens, 0.3)
    parts = list(encoder.encoded(seen))
    found = head.loss(parts, tokens, hidden, encoder.embeddings.weight, 0.3)
    each = []
    for row, cover, gone in zip(tokens, seen, hidden, strict=True):
        states = next(encoder.encoded(cover[None])).hidden[0]
        logits = head(states, encoder.embeddings.weight).log_softmax(1)
        errors = [-logits[i, row[i] - 30] for i in range(6) if gone[i]]
        each.append(torch.stack(errors).mean())
    assert torch.allclose(found, torch.stack(each).mean(), rtol=1e-4)


def test_negative_binomial_is_scipys():
    from scipy.stats import nbinom

    predicted, totals = torch.rand(5, 6) * 3 + 1, torch.tensor([20.0, 50, 80, 100, 1000])
    counts, log_dispersion = torch.poisson(torch.full((5, 6), 2.0)), torch.randn(6)
    mean = torch.expm1(predicted) * totals[:, None] / 1e4
    size = torch.exp(-log_dispersion)
    known = nbinom.logpmf(counts, size, size / (size + mean)) + torch.lgamma(counts + 1).numpy()
    found = negative_binomial(predicted, counts, totals, log_dispersion, None)
    assert float(found) == pytest.approx(-known.mean(), rel=1e-3)
    # At the true mean the likelihood is highest.
    assert found.isfinite()
    assert negative_binomial(torch.zeros(5, 6) - 3, counts, totals, log_dispersion, None).isfinite()


def test_genes_that_a_panel_lacks_have_no_say():
    predicted, totals = torch.rand(3, 6), torch.full((3,), 100.0)
    counts = torch.poisson(torch.full((3, 6), 2.0))
    panel = torch.ones(3, 6, dtype=torch.bool)
    panel[1, 2:] = False
    other = torch.where(panel, counts, counts + 50)
    for loss, of in ((squared_error, torch.ones(6)), (negative_binomial, torch.zeros(6))):
        found = loss(predicted, counts, totals, of, panel)
        assert torch.equal(found, loss(predicted, other, totals, of, panel))
        rows = [
            loss(predicted[i : i + 1, on], counts[i : i + 1, on], totals[i : i + 1], of[on], None)
            for i, on in enumerate(panel)
        ]
        assert torch.allclose(found, torch.stack(rows).mean(), rtol=1e-5)


def test_contrast_against_gathered_rows_is_the_whole_batchs():
    image = torch.nn.functional.normalize(torch.randn(7, 8), dim=1)
    cell = torch.nn.functional.normalize(torch.randn(7, 8), dim=1)
    xy, slide, temperature = torch.rand(7, 2) * 60, torch.arange(7) % 2, torch.tensor(0.1)
    near = near_pairs(xy, slide, 28.0)
    assert near.any()
    for soft in (False, True):
        whole = info_nce(image, cell, temperature, near, soft_targets=soft)
        parts = []
        for rows in (slice(0, 3), slice(3, 7)):
            of = near_pairs(xy[rows], slide[rows], 28.0, xy, slide)
            parts.append(
                info_nce(
                    image[rows], cell[rows], temperature, of, every_image=image,
                    every_cell=cell, first=rows.start, soft_targets=soft,
                )
            )  # fmt: skip
        assert torch.allclose(whole, (3 * parts[0] + 4 * parts[1]) / 7, rtol=1e-5)


def test_a_model_on_crops_sees_both_of_them(config):
    sizes = Architecture(dim=16, project=8, rank=4, cell_layers=1, context=5)
    model = PAST(replace(config, encoder="vit_tiny", features=None, architecture=sizes)).eval()
    crops = CropBatch(
        torch.randint(0, 255, (2, 224, 224, 3), dtype=torch.uint8),
        torch.randint(0, 255, (2, 112, 112, 3), dtype=torch.uint8),
    )
    found = model.encode_image(crops)
    assert found.shape == (2, 8)
    for other in (
        crops._replace(context=crops.context.flip(1)),
        crops._replace(cell=crops.cell.flip(2)),
    ):
        assert not torch.allclose(model.encode_image(other), found, atol=1e-5)
    assert model.predict(crops).shape == (2, 6)


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
