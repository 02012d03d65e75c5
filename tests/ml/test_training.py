"""Training: what it writes, that a killed one ends like an uninterrupted one, what it refuses."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.errors import InputError
from ml.models import checkpoint
from ml.training.corpus import nearest
from ml.training.engine import Optimisation
from ml.training.memory import ALIGNED
from ml.training.optimiser import parameter_groups
from ml.training.run import run
from tests.ml.conftest import Recorder, sections

ROOT = Path(__file__).resolve().parents[2]


def test_result_and_files(trained):
    result, out = trained["result"], trained["out"]
    assert result["row_kind"] == "cell" and result["spot_diameter_um"] is None
    assert [e["part"] for e in result["evaluations"]] == ["validation", "test"]
    test = result["metrics"]["test"]
    assert test["n_genes"] == 120 and test["pcc_q1"] <= test["pcc_median"] <= test["pcc_q3"]
    assert set(test["baselines"]) == {"mean", "colour_ridge", "frozen_ridge"}
    assert result["metrics"]["scope"] == "held-out patients"
    assert result["metrics"]["seconds"] > 0 and result["metrics"]["cells_per_s"] > 0
    json.dumps(result, allow_nan=False)
    with (out / "evaluation" / "per_gene.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(r["part"], r["gene"]) for r in rows} >= {("test", "EPCAM"), ("validation", "EPCAM")}
    model = checkpoint.load(out / "model")
    assert model.config.provenance["seed"] == 5
    assert {s["part"] for s in model.config.provenance["sections"]} == {
        "train",
        "validation",
        "test",
    }


def test_live_metrics(trained):
    losses = [value for name, value, _ in trained["metrics"] if name == "train_loss"]
    steps = [step for name, _, step in trained["metrics"] if name == "validation_pcc" and step]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert steps == sorted(steps)


def fresh_work(trained, folder):
    """A work folder with the image features, but no checkpoint."""
    shutil.copytree(Path(trained["inputs"]["work"]) / "images", folder / "images")
    return {**trained["inputs"], "work": str(folder)}


def test_the_same_seed_gives_the_same_model(trained, tmp_path):
    again = run(trained["params"], fresh_work(trained, tmp_path / "work"), tmp_path, Recorder())
    first = (trained["out"] / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == first
    assert again["metrics"]["test"] == trained["result"]["metrics"]["test"]


def test_another_seed_gives_another_model(trained, tmp_path):
    params = {**trained["params"], "seed": 6, "epochs": 1}
    run(params, fresh_work(trained, tmp_path / "work"), tmp_path, Recorder())
    first = checkpoint.load(trained["out"] / "model").state_dict()
    other = checkpoint.load(tmp_path / "model").state_dict()
    name = "members.0.cell_encoder.embeddings.weight"
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize(("phase", "epoch"), [(0, 2), (1, 1)])
def test_a_killed_training_ends_like_an_uninterrupted_one(trained, tmp_path, phase, epoch):
    params = {**trained["params"], "epochs": 6}
    params["settings"] = {"patience": 99, "align": {"patience": 99, "epochs": 8}}
    whole = tmp_path / "whole"
    run(params, fresh_work(trained, whole / "work"), whole, Recorder())

    out = tmp_path / "killed"
    inputs = fresh_work(trained, out / "work")
    spec = tmp_path / "spec.json"
    spec.write_text(
        json.dumps({"kind": "train", "params": params, "inputs": inputs, "out": str(out)})
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "ml.run", str(spec)], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    state = out / "work" / "checkpoint" / "state.json"
    deadline = time.monotonic() + 120
    while not (
        state.exists()
        and (at := json.loads(state.read_text())["progress"])["phase"] == phase
        and at["epoch"] >= epoch
    ):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (out / "model" / "config.json").exists()

    run(params, inputs, out, Recorder())
    weights = [(p / "model" / "model.safetensors").read_bytes() for p in (whole, out)]
    assert weights[0] == weights[1]
    tables = [(p / "evaluation" / "per_gene.csv").read_text() for p in (whole, out)]
    assert tables[0] == tables[1]


@pytest.fixture(scope="module")
def not_aligned(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("not_aligned")
    params = {**trained["params"], "settings": {"align": {"epochs": 0}}}
    result = run(params, fresh_work(trained, out / "work"), out, Recorder())
    return result, checkpoint.load(out / "model").state_dict()


def test_alignment_trains_the_shared_space_and_nothing_else(trained, not_aligned):
    result, before = not_aligned
    after = checkpoint.load(trained["out"] / "model").state_dict()
    assert result["metrics"]["alignment_epochs"] == 0
    for name, weights in before.items():
        moved = name.removeprefix("members.0.").startswith(ALIGNED)
        assert torch.equal(weights, after[name]) != moved, name
    for key in ("pcc_median", "pcc_q1", "scc_median", "baselines", "controls"):
        assert result["metrics"]["test"][key] == trained["result"]["metrics"]["test"][key]


def test_retrieval_beats_chance_and_an_untrained_space(trained, not_aligned, tmp_path):
    """The tiny study has few steps to an epoch, so it is given more epochs."""
    params = {**trained["params"], "settings": {"align": {"epochs": 20, "patience": 20}}}
    recorder = Recorder()
    result = run(params, fresh_work(trained, tmp_path / "work"), tmp_path, recorder)
    found = result["metrics"]["test"]["retrieval"]
    before = not_aligned[0]["metrics"]["test"]["retrieval"]
    # Ten of 256 on the section; more on the cores, whose sets are smaller.
    chance = found["chance_r10"]
    assert found["candidates"] == 256 and 10 / 256 <= chance < 0.1
    queries = 10 * found["sets"] / chance
    clear = chance + 2 * (chance * (1 - chance) / queries) ** 0.5
    for way in ("image_to_gene", "gene_to_image"):
        assert found[f"{way}_r10"] > clear
        assert found[f"{way}_r10"] > before[f"{way}_r10"]
    live = [v for name, v, _ in recorder.metrics if name == "validation_recall_at_10"]
    assert len(live) == result["metrics"]["alignment_epochs"] == 20


def test_cancelling_leaves_no_model(trained, tmp_path):
    with pytest.raises(SystemExit) as caught:
        run(trained["params"], fresh_work(trained, tmp_path / "work"), tmp_path, Recorder(2))
    assert caught.value.code == 143
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"preset": "huge"}, "train.preset"),
        ({"encoder": "no_such"}, "encoder.unknown"),
        ({"epochs": -1}, "train.epochs"),
        ({"settings": {"learning_rte": 1}}, "train.setting"),
        ({"settings": {"align": {"epoch": 1}}}, "train.setting"),
        ({"settings": {"batch": 0}}, "train.setting"),
        ({"settings": {"align": {"batch": 1}}}, "train.setting"),
        ({"settings": {"optimisation": {"accumulate": 0}}}, "train.setting"),
        ({"settings": {"optimisation": {"ema": 1.0}}}, "train.setting"),
        ({"settings": {"optimisation": {"precision": "float16"}}}, "train.setting"),
    ],
)
def test_wrong_parameters_are_refused(trained, tmp_path, params, code):
    with pytest.raises(InputError) as caught:
        run(params, {**trained["inputs"], "work": str(tmp_path)}, tmp_path, Recorder())
    assert caught.value.code == code
    assert not (tmp_path / "model").exists()


def test_a_patient_in_two_parts_is_refused(tiny, tmp_path):
    given = sections(tiny)
    given[1] = {**given[1], "patient": given[-1]["patient"], "part": "train"}
    with pytest.raises(InputError) as caught:
        run({}, {"sections": given, "work": str(tmp_path)}, tmp_path, Recorder())
    assert caught.value.code == "split.patient_in_two_parts"


def test_vit_trains_end_to_end_on_crops(tiny, tmp_path):
    """Two small cores, one epoch: the encoder's own weights move."""
    from ml.models.vit import vit_tiny

    by_part = {s["part"]: s for s in sections(tiny)}
    given = [by_part["train"], {**by_part["validation"], "part": "test"}]
    params = {"encoder": "vit_tiny", "preset": "tiny", "epochs": 1, "settings": {"batch": 64}}
    result = run(params, {"sections": given, "work": str(tmp_path / "w")}, tmp_path, Recorder())
    model = checkpoint.load(tmp_path / "model")
    assert result["config"]["features"] is None
    weights = model.state_dict()["members.0.image_encoder.encoder.blocks.0.attn.qkv.weight"]
    torch.manual_seed(0)
    assert weights.shape == vit_tiny().state_dict()["blocks.0.attn.qkv.weight"].shape
    assert torch.isfinite(weights).all() and np.isfinite(result["metrics"]["test"]["pcc_median"])
    assert not (Path(tmp_path) / "w" / "images").exists()  # crops are read when needed


def test_weight_decay_spares_norms_biases_temperature_and_embeddings(trained):
    model = checkpoint.load(trained["out"] / "model").members[0]
    decayed, spared = parameter_groups(model, Optimisation(weight_decay=0.1))
    assert decayed["weight_decay"] == 0.1 and spared["weight_decay"] == 0.0
    ids = {id(p) for p in decayed["params"]}
    assert all(p.ndim > 1 for p in decayed["params"])
    assert id(model.cell_encoder.embeddings.weight) not in ids
    assert id(model.image_encoder.linear.weight) in ids
    total = len(decayed["params"]) + len(spared["params"])
    assert total == len(list(model.parameters()))


def test_nearest_leaves_the_row_itself_out_even_where_rows_coincide():
    xy = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [500.0, 0.0]])
    index, distance = nearest(xy, 2, 112.0)
    assert index[0].tolist() == [1, 2] and distance[0].tolist() == [0.0, 5.0]
    assert all(row not in index[row] for row in range(4))
    assert index[3].tolist() == [-1, -1]
