"""Reference mode: parity with torch's own layers and a literal graph attention; bad checkpoints."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from ml.errors import InputError
from ml.models.reference import ReferencePAST, ReferenceSizes
from ml.models.reference_files import convert
from ml.models.reference_layers import (
    CellLayer,
    GraphAttention,
    ImageBlock,
    JoinedAttention,
)
from ml.tokens.vocabulary import Vocabulary

SIZES = ReferenceSizes(
    patch=8, grid=2, image_dim=24, image_depth=2, image_hidden=40, image_heads=3,
    vocabulary=65, context=12, cell_dim=32, cell_depth=2, cell_hidden=48, cell_heads=4,
    graph_hidden=10, project=16,
)  # fmt: skip
HEADS = {"image_heads": 3, "cell_heads": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


def random_weights(module):
    """Weights that are far from any initialisation, so that each of them matters."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(0, 0.3)
    return module.eval()


@pytest.fixture
def published():
    """State dict of a published checkpoint, with the tensors that its function does not use."""
    state = random_weights(ReferencePAST(SIZES)).state_dict()
    state["temperature"] = torch.tensor(0.07)
    layer = "cell_encoder.encoder.layers.0."
    for name in [name for name in state if name.startswith(layer)]:
        state[name.replace("encoder.layers.0", "encoder_layer")] = state[name].clone()
    state["graph_encoder.distance_transform.0.weight"] = torch.ones(1, 1)
    state["graph_encoder.distance_transform.0.bias"] = torch.ones(1)
    return state


def written(state, folder):
    path = folder / "past.pth"
    torch.save({"model": state, "epoch": 3}, path)
    return path


@pytest.fixture
def batch():
    """Three cells with 2, 1 and 3 nodes."""
    tokens = torch.randint(30, 60, (3, 12))
    padding = torch.arange(12) >= torch.tensor([12, 7, 4])[:, None]
    tokens[padding] = 1
    edges = torch.tensor([[0, 1, 3, 3, 4, 4, 5, 5], [1, 0, 4, 5, 3, 5, 3, 4]])
    return tokens, padding, torch.randint(30, 60, (6, 12)), edges, torch.tensor([0, 2, 3, 6])


def test_a_cell_layer_is_torchs_own():
    theirs = random_weights(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True))
    ours = CellLayer(32, 4, 48)
    ours.load_state_dict(theirs.state_dict())
    x, padding = torch.randn(5, 9, 32), torch.arange(9) >= torch.tensor([9, 1, 3, 8, 5])[:, None]
    bias = torch.zeros(5, 9).masked_fill(padding, -math.inf)[:, None, None]
    theirs.train()  # eval mode drops padding's values for speed; the published mean has them
    for part in (theirs.dropout, theirs.dropout1, theirs.dropout2):
        part.p = 0.0
    theirs.self_attn.dropout = 0.0
    assert torch.allclose(ours(x, bias), theirs(x, src_key_padding_mask=padding), atol=1e-5)


def test_the_fusion_is_torchs_attention_with_a_bias():
    theirs = random_weights(nn.MultiheadAttention(32, 4, batch_first=True))
    ours = JoinedAttention(32, 4)
    ours.load_state_dict(theirs.state_dict())
    query, both, bias = torch.randn(5, 1, 32), torch.randn(5, 2, 32), torch.tensor([[0.0, -1.0]])
    assert torch.allclose(
        ours(query, both, bias), theirs(query, both, both, attn_mask=bias)[0], atol=1e-5
    )


def test_an_image_block_is_torchs_with_its_layer_scale_folded_in():
    ours = random_weights(ImageBlock(24, 3, 40))
    theirs = nn.TransformerEncoderLayer(
        24, 3, 40, 0.0, functional.gelu, 1e-6, batch_first=True, norm_first=True
    )
    state = ours.state_dict()
    folded = {
        "self_attn.in_proj_weight": state["attn.qkv.weight"],
        "self_attn.in_proj_bias": state["attn.qkv.bias"],
        "self_attn.out_proj.weight": state["ls1.gamma"][:, None] * state["attn.proj.weight"],
        "self_attn.out_proj.bias": state["ls1.gamma"] * state["attn.proj.bias"],
        "linear1.weight": state["mlp.fc1.weight"],
        "linear1.bias": state["mlp.fc1.bias"],
        "linear2.weight": state["ls2.gamma"][:, None] * state["mlp.fc2.weight"],
        "linear2.bias": state["ls2.gamma"] * state["mlp.fc2.bias"],
        **{name: state[name] for name in state if name.startswith("norm")},
    }
    theirs.load_state_dict(folded)
    x = torch.randn(4, 5, 24)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def literal_attention(layer, x, edges):
    """The paper's equations, a node at a time; a node is its own neighbour once."""
    h = [layer.lin.weight @ node for node in x]
    out = []
    for i in range(len(x)):
        sources = [j for j, k in edges.T.tolist() if k == i and j != i] + [i]
        logits = torch.stack(
            [
                functional.leaky_relu(
                    layer.att_src.flatten() @ h[j] + layer.att_dst.flatten() @ h[i], 0.2
                )
                for j in sources
            ]
        )
        shares = logits.softmax(0)
        out.append(sum(a * h[j] for a, j in zip(shares, sources, strict=True)) + layer.bias)
    return torch.stack(out)


def test_graph_attention_is_the_papers():
    layer = random_weights(GraphAttention(7, 5))
    x = torch.randn(9, 7)
    edges = torch.randint(0, 9, (2, 40))  # loops and repeated edges among them
    assert torch.allclose(layer(x, edges), literal_attention(layer, x, edges), atol=1e-5)


def test_the_published_mean_has_padding_and_only_the_centre_speaks_for_its_graph(published, batch):
    model = ReferencePAST(SIZES).eval()
    model.load_state_dict({n: published[n] for n in model.state_dict()})
    tokens, padding, nodes, edges, ptr = batch
    cell = model.cell_features(tokens, padding)
    swapped = tokens.clone()
    swapped[2, 5] = 40  # a padded position
    assert not torch.allclose(model.cell_features(swapped, padding)[2], cell[2])
    whole = model.graph_encoder(nodes, edges)
    assert torch.equal(model.graph_features(nodes, edges, ptr), whole[[1, 2, 5]])


def test_the_loss_is_cross_entropy_with_soft_targets_both_ways():
    model = ReferencePAST(SIZES)
    image, cell = (functional.normalize(torch.randn(5, 16), dim=1) for _ in range(2))
    logits = cell @ image.T / 0.07
    target = ((image @ image.T + cell @ cell.T) / 2 / 0.07).softmax(1)
    expected = (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target.T)
    ) / 2
    assert model.loss(image, cell).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_checkpoint_is_read_from_both_formats_and_converted(published, batch, tmp_path):
    path = written(published, tmp_path)
    save_file({n: t.half() for n, t in published.items()}, tmp_path / "half.safetensors")
    model = ReferencePAST.from_checkpoint(path, **HEADS)
    assert model.sizes == SIZES and not model.training
    half = ReferencePAST.from_checkpoint(tmp_path / "half.safetensors", **HEADS)
    assert torch.allclose(half.encode_cell(*batch), model.encode_cell(*batch), atol=5e-2)
    again = convert(path, tmp_path / "out" / "past", **HEADS)
    assert again.sizes == SIZES
    assert json.loads((tmp_path / "out/past/config.json").read_text())["mode"] == "reference"
    state = model.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["past"]
    with pytest.raises(InputError) as caught:
        convert(path, tmp_path / "out" / "past", **HEADS)
    assert caught.value.code == "convert.exists"


def refused(path, **arguments):
    with pytest.raises(InputError) as caught:
        ReferencePAST.from_checkpoint(path, **{**HEADS, **arguments})
    return caught.value


def without(name):
    return lambda state: state.pop(name)


def put(name, tensor):
    return lambda state: state.__setitem__(name, tensor)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (without("fusion_norm.weight"), "keys", "fusion_norm.weight"),
        (without("image_encoder.model.pos_embed"), "keys", "pos_embed"),
        (without("cell_encoder.encoder.layers.0.norm1.bias"), "keys", "layers.0.norm1.bias"),
        (put("classifier.weight", torch.ones(2)), "keys", "classifier.weight"),
        (put("cell_projection.fc.bias", torch.ones(3)), "shape", "cell_projection.fc.bias"),
        (put("image_encoder.model.pos_embed", torch.ones(1, 7, 24)), "shape", "pos_embed"),
        (put("fusion_norm.bias", torch.full((32,), math.nan)), "not_finite", "fusion_norm.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_named(published, tmp_path, change, code, named):
    change(published)
    error = refused(written(published, tmp_path))
    assert error.code == f"checkpoint.{code}" and named in error.what and error.remedy


def test_heads_that_do_not_divide_are_refused(published, tmp_path):
    path = written(published, tmp_path)
    assert "image_heads = 5" in refused(path, image_heads=5).what
    assert "cell_heads = 0" in refused(path, cell_heads=0).what


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": Attack()}, tmp_path / "past.pth")
    error = refused(tmp_path / "past.pth")
    assert error.code == "checkpoint.code" and "mkdir" in error.what
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_checkpoint_are_refused(published, tmp_path):
    assert refused(tmp_path / "absent.pth").code == "checkpoint.missing"
    (tmp_path / "half.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert refused(tmp_path / "half.safetensors").code == "checkpoint.unreadable"
    torch.save(published, tmp_path / "bare.pth")
    assert refused(tmp_path / "bare.pth").code == "checkpoint.layout"
    whole = written(published, tmp_path)
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:-4000])
    assert refused(tmp_path / "cut.pth").code == "checkpoint.unreadable"
    (tmp_path / "ours").mkdir()
    assert refused(tmp_path / "ours").code == "checkpoint.config"


def test_a_vocabulary_of_another_size_is_refused(published, tmp_path):
    path = written(published, tmp_path)
    genes = [f"G{i}" for i in range(35)]  # 30 reserved ids, 35 genes: 65 rows
    ones = torch.ones(35).numpy()
    ReferencePAST.from_checkpoint(path, vocabulary=Vocabulary(tuple(genes), ones), **HEADS)
    ReferencePAST.from_checkpoint(
        path, vocabulary=Vocabulary(tuple(genes[:30]), ones[:30]), **HEADS
    )
    error = refused(path, vocabulary=Vocabulary(tuple(genes[:20]), ones[:20]))
    assert error.code == "checkpoint.vocabulary" and "65" in error.what


def test_inputs_that_do_not_fit_are_refused(batch):
    model = ReferencePAST(SIZES).eval()
    tokens, padding, nodes, edges, ptr = batch
    outside = tokens.clone()
    outside[0, 4] = 65
    for call, code in [
        (lambda: model.encode_image(torch.zeros(2, 3, 20, 20)), "image.size"),
        (lambda: model.encode_cell(outside, padding, nodes, edges, ptr), "tokens.vocabulary"),
        (lambda: model.encode_cell(tokens[:, :9], padding, nodes, edges, ptr), "tokens.shape"),
        (lambda: model.encode_cell(tokens, padding | True, nodes, edges, ptr), "tokens.empty"),
        (lambda: model.encode_cell(tokens, padding, nodes, edges, ptr[:-1]), "graph.shape"),
        (lambda: model.encode_cell(tokens, padding, nodes[:-1], edges, ptr), "graph.shape"),
    ]:
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.code == code
