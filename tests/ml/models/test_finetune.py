"""Fine-tuning: rates by depth, freezing, checkpointed gradients, low-rank adaptation."""

from __future__ import annotations

import pytest
import torch

from ml.models import finetune, lora
from ml.models.conch import ConchImage
from ml.models.vit import Shape, VisionTransformer
from ml.training.engine import Optimisation
from ml.training.optimiser import parameter_groups, set_rate

SHAPE = Shape(
    size=32, dim=24, depth=4, heads=3, hidden=40, swiglu=True, layer_scale=0.3, registers=2
)


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return VisionTransformer(SHAPE)


@pytest.fixture
def image():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def grouped(encoder, rate=1.0, layer_decay=0.5, decay=0.05):
    """The group that training puts each parameter of an image encoder into."""
    member = torch.nn.ModuleDict({"image_encoder": torch.nn.ModuleDict({"encoder": encoder})})
    how = Optimisation(weight_decay=decay, encoder_scale=1.0, layer_decay=layer_decay)
    optimiser = torch.optim.AdamW(parameter_groups(member, how), lr=rate)
    set_rate(optimiser, rate)
    return {id(p): group for group in optimiser.param_groups for p in group["params"]}


def test_rates_fall_towards_the_image_and_each_parameter_is_in_one_group(vit):
    of = grouped(vit, rate=1e-3)
    assert of.keys() == {id(p) for p in vit.parameters()}
    rates = [
        of[id(p)]["lr"]
        for p in (vit.patch_embed.proj.weight, *(b.attn.qkv.weight for b in vit.blocks),
                  vit.norm.weight)
    ]  # fmt: skip
    assert rates == pytest.approx([1e-3 * 0.5**k for k in (5, 4, 3, 2, 1, 0)])
    for name, parameter in vit.named_parameters():
        spared = parameter.ndim == 1 or name in ("cls_token", "reg_token", "pos_embed")
        assert of[id(parameter)]["weight_decay"] == (0.0 if spared else 0.05), name


def test_groups_reach_through_what_holds_the_transformer():
    tower = ConchImage(Shape(size=32, dim=24, depth=2, heads=3), outputs=16, heads=2)
    of = grouped(torch.nn.Sequential(tower))
    assert of[id(tower.trunk.pos_embed)]["lr_scale"] == 0.5**3
    assert of[id(tower.ln_contrast.weight)]["lr_scale"] == 1.0
    assert of[id(tower.attn_pool_contrast.query)]["weight_decay"] == 0.0


def test_an_encoder_without_blocks_learns_at_one_rate():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    assert {group["lr_scale"] for group in grouped(network).values()} == {1.0}


@pytest.mark.parametrize("blocks", [0, 1, 4])
def test_freezing_up_to_a_block(vit, image, blocks):
    finetune.freeze(vit, blocks)
    vit(image).sum().backward()
    for name, parameter in vit.named_parameters():
        number = finetune.layer_of(name, 4)
        trained = blocks == 0 or number > blocks
        assert (parameter.grad is not None) == trained, name
    assert grouped(vit).keys() == {id(p) for p in vit.parameters() if p.requires_grad}


def test_freezing_more_than_there_is_is_refused(vit):
    with pytest.raises(ValueError, match="5 of 4"):
        finetune.freeze(vit, 5)
    with pytest.raises(ValueError, match="0 vision transformers"):
        finetune.freeze(torch.nn.Linear(2, 2), 1)


def test_checkpointed_gradients_are_the_same(vit, image):
    vit(image).square().sum().backward()
    plain = {name: p.grad.clone() for name, p in vit.named_parameters()}
    vit.zero_grad()
    finetune.checkpoint_gradients(vit)
    vit(image).square().sum().backward()
    for name, parameter in vit.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], atol=1e-6, rtol=1e-5)


def trained_a_little(vit, image, parameters):
    optimiser = torch.optim.SGD(parameters, lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        vit(image).square().mean().backward()
        optimiser.step()


def test_adapters_start_at_nothing_and_alone_are_trained(vit, image):
    before = vit(image).detach()
    weights = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    parameters = lora.adapt(vit, rank=2, alpha=8)
    assert torch.equal(vit(image), before)
    assert len(parameters) == 2 * 2 * SHAPE.depth
    trained_a_little(vit, image, parameters)
    after = vit.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
    assert not torch.allclose(vit(image), before, atol=1e-4)


def test_merged_and_unmerged_agree_and_both_can_be_kept(vit, image):
    untouched = VisionTransformer(SHAPE)
    untouched.load_state_dict(vit.state_dict())
    weights = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    trained_a_little(vit, image, lora.adapt(vit, rank=4, alpha=8))
    vit.eval()
    with torch.no_grad():
        adapted = vit(image)
        lora.merge(vit)
        lora.merge(vit)  # A second time changes nothing.
        torch.testing.assert_close(vit(image), adapted, atol=1e-5, rtol=1e-5)
        lora.unmerge(vit)
        torch.testing.assert_close(vit(image), adapted, atol=1e-5, rtol=1e-5)
    for name, tensor in weights.items():
        torch.testing.assert_close(vit.state_dict()[name], tensor, atol=1e-6, rtol=1e-6)

    carried = lora.adapter_state(vit)
    assert len(carried) == 16
    lora.adapt(untouched, rank=4, alpha=8)
    untouched.load_state_dict(carried, strict=False)
    plain = VisionTransformer(SHAPE)
    plain.load_state_dict(lora.plain_state(vit))
    with torch.no_grad():
        for other in (untouched, plain):
            torch.testing.assert_close(other(image), adapted, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_adapted_is_refused(vit):
    lora.adapt(vit)
    for encoder in (vit, torch.nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="adapted"):
            lora.adapt(encoder)


def test_adapted_layers_learn_at_the_rate_of_their_block(vit):
    lora.adapt(vit, rank=2)
    groups = {id(group): group for group in grouped(vit).values()}.values()
    assert sorted(group["lr_scale"] for group in groups) == [0.5**k for k in (4, 3, 2, 1)]
    assert all(len(group["params"]) == 4 for group in groups)
