"""Both ways of inference: what they see, how far they agree, and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ml.errors import InputError
from ml.inference import memory
from ml.inference.crops import CropSource
from ml.inference.encoder import load_encoder
from ml.inference.exact import WindowForward
from ml.inference.features import compute_in_memory, device
from ml.inference.run import run as predict
from ml.inference.shared import SharedForward, tiles
from ml.io.celltable import CellTable
from ml.io.journal import Journal
from ml.io.layers import Layer
from ml.io.slides import open_slide, write_pyramid
from ml.models import checkpoint, encoders
from ml.models.encoder_list import FOLDER, LISTED
from ml.models.features import Scale, default_spec
from ml.training.run import run as train
from tests.ml.conftest import Recorder, sections
from tests.ml.models import owners
from tests.ml.test_inference import job
from tests.ml.training.tiny import NAME, OWNED


def layer_values(folder, code):
    layer = Layer.open(folder / "layers" / f"{code}.zarr")
    return np.stack([layer.gene(gene) for gene in layer.symbols])


def agreement(a, b):
    """Median over genes (genes, rows) of their correlation."""
    varying = (a.std(1) > 1e-6) & (b.std(1) > 1e-6)
    assert varying.mean() > 0.5
    return np.median([np.corrcoef(x, y)[0, 1] for x, y in zip(a[varying], b[varying], strict=True)])


@pytest.fixture(scope="module")
def measured(tiny):
    """Measured cores by part."""
    parts = {p["code"]: p["part"] for p in tiny["patients"]}
    cores = [s for s in tiny["slides"] if s["cells"] and s["code"].endswith("-core")]
    return {part: [s for s in cores if parts[s["patient"]] == part] for part in
            ("train", "validation", "test")}  # fmt: skip


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_crops_are_centred_within_half_a_pixel_at_borders(tmp_path, mpp):
    """A dark dot at the row lies in the middle of both crops, wherever the row is."""
    width, height = 700, 600
    xy = np.array(
        [[8.3, 9.6], [691.6, 8.4], [350.7, 300.2], [8.5, 591.8], [691.3, 591.4]], np.float32
    )
    image = np.full((height, width, 3), 255, np.uint8)
    across, down = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    for x, y in xy:
        dot = np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * 1.2**2))
        image = np.minimum(image, (255 * (1 - dot))[..., None]).astype(np.uint8)
    path = tmp_path / "dots.tif"
    write_pyramid(image, path, mpp=mpp, mpp_source="given")
    source = CropSource(open_slide(path, mpp=mpp), xy, mpp, (112.0, 28.0))
    rows = np.array([4, 0, 2, 1, 3])
    context, cell = source.read(rows)
    assert context.shape == (5, 224, 224, 3) and cell.shape == (5, 112, 112, 3)
    for crops, reach in ((context, 3), (cell, 6)):
        middle = crops.shape[1] / 2
        near = slice(int(middle) - reach, int(middle) + reach)
        for crop in crops.numpy().astype(float):
            dark = 255 - crop[near, near, 0]
            dark[dark < 40] = 0
            at = np.arange(near.start, near.stop) + 0.5
            assert abs((dark.sum(0) * at).sum() / dark.sum() - middle) < 0.5
            assert abs((dark.sum(1) * at).sum() / dark.sum() - middle) < 0.5


def test_tiles_of_a_transformer_are_of_one_size_and_clear_of_the_windows():
    xy = np.random.default_rng(0).uniform(0, 9000, (500, 2)).astype(np.float32)
    scale, seen = Scale(0.5, {"tokens": (112.0,)}), []
    for rows, (x, y, width, height) in tiles(xy, 0.25, scale, core=448, patch=14):
        seen.extend(rows)
        points = xy[rows].astype(float) * 0.5
        assert (points - [x, y] >= scale.margin).all()
        assert ([x + width, y + height] - points >= scale.margin).all()
        assert width == height == 742 and width % 14 == 0
    assert sorted(seen) == list(range(500))


def test_a_window_of_its_own_sees_what_the_tile_shows(tiny, measured):
    slide = measured["train"][0]
    xy = CellTable.open(tiny["folder"] / slide["cells"]["path"]).xy()[:24]
    spec, reader = default_spec("cell", None), open_slide(tiny["folder"] / slide["file"])
    loaded = load_encoder(spec.encoder, device())
    shared, exact = (
        compute_in_memory(way(loaded, spec, reader, xy, 0.5), len(xy)).astype(float)
        for way in (SharedForward, WindowForward)
    )
    assert shared.shape == exact.shape == (len(xy), spec.dim)
    colour = spec.columns("stain", 28.0)[:3]
    assert np.abs(shared[:, colour] - exact[:, colour]).max() < 0.01
    spread = shared.std(0) > 1e-3
    found = [np.corrcoef(shared[:, i], exact[:, i])[0, 1] for i in np.flatnonzero(spread)]
    assert np.median(found) > 0.95


def test_both_ways_agree_as_the_training_stated(tiny, trained, measured, tmp_path):
    stated = trained["result"]["metrics"]["ways"]
    assert stated["part"] == "validation" and 50 < stated["rows"] <= 200
    assert stated["speedup"] == pytest.approx(
        stated["shared"]["rows_per_s"] / stated["crop"]["rows_per_s"]
    )
    lost = stated["crop"]["pcc"] - stated["shared"]["pcc"]
    assert stated["pcc_loss"] == pytest.approx(lost) and lost < 0.05
    slide = measured["test"][0]
    inputs = job(tiny, trained, [slide], with_tables=True)
    assert predict({}, inputs, tmp_path / "a", Recorder())["way"] == "shared"
    assert predict({"way": "crop"}, inputs, tmp_path / "b", Recorder())["way"] == "crop"
    values = [layer_values(tmp_path / name, slide["code"]) for name in "ab"]
    assert agreement(*values) > 0.8


def test_a_model_of_crops_has_both_ways(tiny, measured, tmp_path):
    by_code = {s["slide_code"]: s for s in sections(tiny)}
    given = [by_code[s["code"]] for s in (*measured["train"][:2], measured["validation"][0])]
    params = {"encoder": "vit_tiny", "preset": "tiny", "epochs": 1, "settings": {"batch": 64}}
    result = train(params, {"sections": given, "work": str(tmp_path / "w")}, tmp_path, Recorder())
    stated = result["metrics"]["ways"]
    assert stated["speedup"] > 1 and abs(stated["pcc_loss"]) < 0.2
    slide = measured["test"][0]
    inputs = job(tiny, {"out": tmp_path}, [slide], with_tables=True)
    assert predict({}, inputs, tmp_path / "a", Recorder())["way"] == "crop"
    assert predict({"way": "shared"}, inputs, tmp_path / "b", Recorder())["way"] == "shared"
    values = [layer_values(tmp_path / name, slide["code"]) for name in "ab"]
    assert np.isfinite(values).all() and agreement(*values) > 0.5
    # Without its refinement the shared way is refused.
    weights = load_file(tmp_path / "model" / "model.safetensors")
    kept = {k: v for k, v in weights.items() if not k.startswith("refinement.")}
    assert len(kept) == len(weights) - 2
    save_file(kept, tmp_path / "model" / "model.safetensors")
    with pytest.raises(InputError) as caught:
        predict({"way": "shared"}, inputs, tmp_path / "c", Recorder())
    assert caught.value.code == "predict.way" and "crop" in caught.value.remedy


def test_an_owners_encoder_trains_and_predicts_and_another_file_is_refused(
    tiny, measured, tmp_path, monkeypatch
):
    """Phikon at its published size, with random weights in its owner's key names."""
    shelf = tmp_path / "encoders"
    file = shelf / "phikon" / "model.safetensors"
    file.parent.mkdir(parents=True)
    shapes = owners.vit_shapes(dim=768, depth=12, hidden=3072, patch=16, places=197)
    weights = owners.random_weights(shapes)
    save_file(weights, file)
    by_code = {s["slide_code"]: s for s in sections(tiny)}
    given = [by_code[s["code"]] for s in (*measured["train"][:2], measured["test"][0])]
    params = {"encoder": "phikon", "preset": "tiny", "epochs": 1}
    inputs = {"sections": given, "work": str(tmp_path / "w")}
    with pytest.raises(InputError) as caught:
        train(params, inputs, tmp_path, Recorder())
    assert caught.value.code == "encoder.weights" and FOLDER in caught.value.remedy

    monkeypatch.setenv(FOLDER, str(shelf))
    result = train(params, inputs, tmp_path, Recorder())
    kept = result["config"]["provenance"]["encoder"]
    assert kept["name"] == "phikon" and len(kept["sha256"]) == 64
    spec = checkpoint.load(tmp_path / "model").config.features
    assert spec.scales[0].windows["tokens"] == (10.0, 28.0, 112.0)
    # A slide of the training: to so few rows of a random encoder any other looks odd.
    slide = measured["train"][0]
    target = job(tiny, {"out": tmp_path}, [slide], with_tables=True)
    predict({}, target, tmp_path / "a", Recorder())
    values = layer_values(tmp_path / "a", slide["code"])
    assert np.isfinite(values).all() and values.std(1).max() > 0

    weights["layernorm.bias"] += 1
    save_file(weights, file)
    with pytest.raises(InputError) as caught:
        predict({}, target, tmp_path / "b", Recorder())
    now = load_encoder("phikon", torch.device("cpu")).sha256
    assert caught.value.code == "encoder.changed"
    assert kept["sha256"] in caught.value.what and now in caught.value.what
    assert now != kept["sha256"] and "train" in caught.value.remedy
    assert not (tmp_path / "b" / "layers").exists()


def test_an_unknown_way_is_refused(tiny, trained, measured, tmp_path):
    inputs = job(tiny, trained, measured["test"][:1], with_tables=True)
    with pytest.raises(InputError) as caught:
        predict({"way": "fast"}, inputs, tmp_path, Recorder())
    assert caught.value.code == "predict.way" and "crop, shared" in caught.value.remedy


def test_too_little_memory_is_said_plainly(tiny, trained, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CPU_BYTES", 1 << 20)
    inputs = job(tiny, trained, measured["test"][:1], with_tables=True)
    with pytest.raises(InputError) as caught:
        predict({}, inputs, tmp_path, Recorder())
    assert caught.value.code == "predict.memory" and "GiB" in caught.value.what
    assert not (tmp_path / "layers").exists()


def test_memory_that_runs_out_on_the_way_is_said_plainly():
    with pytest.raises(InputError) as caught, memory.enough_memory("slide S"):
        torch.empty(1 << 60, dtype=torch.uint8)
    assert caught.value.code == "predict.memory" and "slide S" in caught.value.where
    with pytest.raises(RuntimeError, match="size"), memory.enough_memory("slide S"):
        torch.ones(2) @ torch.ones(3)


def test_a_torn_line_of_a_journal_does_not_count(tmp_path):
    path = tmp_path / "journal"
    first = Journal(path, {"of": "a"}, lambda: {"at_once": 3})
    first.add(0)
    first.add(17)
    first.close()
    with path.open("ab") as file:
        file.write(b"4")
    again = Journal(path, {"of": "a"}, lambda: {"at_once": 5})
    assert again.resumed and again.done == {0, 17} and again.chosen == {"at_once": 3}
    again.add(40)
    again.close()
    assert Journal(path, {"of": "a"}).done == {0, 17, 40}
    other = Journal(path, {"of": "b"}, lambda: {"at_once": 5})
    assert not other.resumed and not other.done and other.chosen == {"at_once": 5}
    path.write_bytes(json.dumps({"identity": {"of": "b"}}).encode()[:9])
    assert not Journal(path, {"of": "b"}).resumed


def test_the_list_of_encoders_is_the_registrys():
    # Other tests register a small one of their own.
    assert sorted(e.name for e in LISTED) == [n for n in encoders.names() if n not in (NAME, OWNED)]
    for listed in LISTED:
        entry = encoders.get(listed.name)
        assert (listed.gated, listed.files) == (entry.gated, entry.files)


def test_listing_encoders_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, ml.models.encoder_list; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_an_encoder_is_offered_where_its_file_is(tmp_path, monkeypatch):
    phikon = next(e for e in LISTED if e.name == "phikon")
    monkeypatch.delenv(FOLDER, raising=False)
    assert not phikon.is_here() and "needs" in phikon.note
    (tmp_path / "phikon").mkdir()
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert not phikon.is_here()
    (tmp_path / "phikon" / "model.safetensors").write_bytes(b"")
    assert phikon.is_here() and "needs" not in phikon.note
    assert all(e.is_here() and not e.note for e in LISTED if not e.files)
