"""The published model's function, on weights and inputs that were generated with it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ml.errors import InputError
from ml.models import PAST
from ml.models.reference_files import convert

pytestmark = pytest.mark.real_data

HEADS = {"image_heads": 3, "cell_heads": 4}
CELL = ("tokens", "padding_mask", "graph_tokens", "graph_edge_index", "graph_ptr")


@pytest.fixture(scope="module")
def given(real_data):
    return load_file(real_data / "reference" / "past_tiny_io.safetensors")


@torch.no_grad()
def intermediates(model, given):
    image, cells = given["image"], [given[name] for name in CELL]
    found = {
        "image_features": model.image_features(image),
        "image_embedding": model.encode_image(image),
        "cell_features": model.cell_features(*cells[:2]),
        "graph_features": model.graph_features(*cells[2:]),
        "cell_embedding": model.encode_cell(*cells),
    }
    found["fused"] = model.fuse(found["cell_features"], found["graph_features"])
    found["loss"] = model.loss(found["image_embedding"], found["cell_embedding"]).reshape(1)
    assert torch.equal(model(image, *cells).reshape(1), found["loss"])
    return found


@pytest.mark.parametrize("name", ["past_tiny.pth", "past_tiny.safetensors"])
def test_every_intermediate_agrees(real_data, given, name):
    model = PAST.from_checkpoint(real_data / "reference" / name, mode="reference", **HEADS)
    found = intermediates(model, given)
    assert found.keys() == given.keys() - {"image", *CELL}
    for part, values in found.items():
        assert (values - given[part]).abs().max() < 1e-5, part


def test_a_converted_checkpoint_is_the_same_model(real_data, given, tmp_path):
    path = real_data / "reference" / "past_tiny.pth"
    convert(path, tmp_path / "past", **HEADS)
    again = intermediates(PAST.from_checkpoint(tmp_path / "past", mode="reference"), given)
    direct = intermediates(PAST.from_checkpoint(path, mode="reference", **HEADS), given)
    assert all(torch.equal(again[part], direct[part]) for part in direct)


def test_the_jobs_refuse_a_published_model_and_say_how_it_is_used(real_data, tmp_path):
    convert(real_data / "reference" / "past_tiny.pth", tmp_path / "past", **HEADS)
    with pytest.raises(InputError, match="from_checkpoint"):
        PAST.from_checkpoint(tmp_path / "past")
