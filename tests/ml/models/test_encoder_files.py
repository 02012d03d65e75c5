"""Owners' files: what is read, what is refused, and what is kept of where weights came from."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from ml.errors import InputError
from ml.models import encoders, foundation, foundation_files
from ml.models.vit import Shape, VisionTransformer
from tests.ml.models import owners

SHAPE = Shape(size=32, dim=24, depth=2, heads=3, layer_scale=1e-5)


@pytest.fixture
def weights():
    return owners.random_weights(
        owners.timm_shapes(dim=24, depth=2, fc1=96, fc2=96, patch=16, places=5)
    )


@pytest.fixture
def entry(monkeypatch):
    """UNI's entry with a network small enough to write."""

    def build(path=None):
        return foundation._load(
            "uni", path, lambda file: foundation.read_transformer(SHAPE, file, lambda w: w)
        )

    small = replace(encoders.get("uni"), build=build)
    monkeypatch.setitem(encoders._ENCODERS, "uni", small)
    return small


@pytest.mark.parametrize("name", encoders.names())
def test_an_encoder_without_its_file_names_it_and_its_owners_page(name, monkeypatch):
    monkeypatch.delenv(foundation_files.FOLDER, raising=False)
    entry = encoders.get(name)
    if not entry.files:
        assert not getattr(entry.load(), "weights_sha256", None)
        return
    with pytest.raises(InputError) as caught:
        entry.load()
    assert caught.value.code == "encoder.weights"
    assert entry.weights in caught.value.remedy and entry.files[0] in caught.value.remedy
    assert ("agreement" in caught.value.remedy) == entry.gated


def test_bin_and_safetensors_by_file_folder_or_environment(entry, weights, tmp_path, monkeypatch):
    torch.save(weights, tmp_path / "pytorch_model.bin")
    shelf = tmp_path / "shelf"
    (shelf / "uni").mkdir(parents=True)
    save_file(weights, shelf / "uni" / "model.safetensors")
    monkeypatch.setenv(foundation_files.FOLDER, str(shelf))
    image = torch.randn(1, 3, 32, 32)
    ways = (tmp_path / "pytorch_model.bin", tmp_path, shelf / "uni", None)
    first, *others = (entry.load(path)(image) for path in ways)
    assert all(torch.equal(first, other) for other in others)
    module = entry.load()
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert module.patch_embed.proj.weight.is_contiguous(memory_format=torch.channels_last)


def test_provenance_has_every_fact_and_the_files_hash(entry, weights, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    kept = json.loads(json.dumps(entry.provenance(entry.load(path))))
    assert kept["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert kept["licence"] == "CC-BY-NC-ND-4.0" and kept["gated"] is True
    assert kept["weights"] == "huggingface.co/MahmoodLab/UNI"
    assert {"architecture", "dim", "patch", "mpp", "mean", "std", "pooling", "precision"} < set(
        kept
    )


def test_half_precision_files_are_computed_in_float32(entry, weights, tmp_path):
    save_file({k: v.half() for k, v in weights.items()}, tmp_path / "model.safetensors")
    module = entry.load(tmp_path)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    with entry.autocast(torch.device("cpu")):
        assert module(torch.randn(1, 3, 32, 32)).dtype == torch.float32


def spoilt(kind: str, weights: owners.Weights) -> object:
    """What a file of that kind of fault holds."""
    if kind == "missing":
        return {k: v for k, v in weights.items() if k != "blocks.1.ls2.gamma"}
    if kind == "extra":
        return weights | {"head.weight": torch.zeros(2, 24)}
    if kind == "shape":
        return weights | {"blocks.0.mlp.fc1.weight": torch.zeros(95, 24)}
    if kind == "positions":
        return weights | {"pos_embed": torch.zeros(1, 7, 24)}
    if kind == "nan":
        return weights | {"norm.bias": torch.full((24,), float("nan"))}
    return {"model": weights, "epoch": 3}


@pytest.mark.parametrize(
    "kind,code,named",
    [
        ("missing", "encoder.keys", "blocks.1.ls2.gamma"),
        ("extra", "encoder.keys", "head.weight"),
        ("shape", "encoder.shape", "blocks.0.mlp.fc1.weight"),
        ("positions", "encoder.shape", "pos_embed"),
        ("nan", "encoder.not_finite", "norm.bias"),
        ("wrapped", "encoder.layout", "pytorch_model.bin"),
    ],
)
def test_files_that_are_not_this_encoder_are_refused(entry, weights, tmp_path, kind, code, named):
    torch.save(spoilt(kind, weights), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=named) as caught:
        entry.load(tmp_path)
    assert caught.value.code == code


class Evil:
    def __reduce__(self):
        return (print, ("this ran",))


def test_code_in_a_file_is_not_run(entry, tmp_path, capsys):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"norm.bias": Evil()}, protocol=2))
    with pytest.raises(InputError) as caught:
        entry.load(tmp_path)
    assert caught.value.code == "encoder.code"
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_damaged_and_absent_files_are_told_apart(entry, tmp_path, name):
    with pytest.raises(InputError) as caught:
        entry.load(tmp_path / name)
    assert caught.value.code == "encoder.missing"
    (tmp_path / name).write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(InputError) as caught:
        entry.load(tmp_path / name)
    assert caught.value.code in ("encoder.unreadable", "encoder.code")


def test_an_outline_needs_no_file(entry):
    """A checkpoint that holds its encoder is loaded without the owner's file."""
    with torch.device("meta"):
        module = entry.empty()
    assert isinstance(module, VisionTransformer) and module.shape == foundation.UNI
