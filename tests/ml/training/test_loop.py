"""The loop: every row once, best weights kept, resumed to the bit, stopped when it diverges."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ml.errors import InputError
from ml.models.past import LossWeights
from ml.training.distributed import Ranks
from ml.training.diverged import Guard
from ml.training.engine import Optimisation
from ml.training.loop import Trainer
from ml.training.metrics import Metrics
from ml.training.optimiser import MovingAverage, adamw, parameter_groups, schedule, set_rate
from tests.ml.conftest import Recorder
from tests.ml.training.rows import ALL, Rows, batch, model, phase

ROOT = Path(__file__).resolve().parents[3]
HOW = Optimisation(weight_decay=0.01, precision="float32", compile="off")


def trainer(source, folder=None, how=HOW, dropout=0.1, report=None, ranks=None, **of) -> Trainer:
    """Training from the random weights of `rows.model`, whatever the members are set to before."""
    past = model(dropout)
    start = {k: v.clone() for k, v in past.networks()[0].state_dict().items()}
    return Trainer(
        past, [phase(source, **of)], how, lambda member: member.load_state_dict(start) and None,
        folder, report or Recorder(), "rows", seed=3, ranks=ranks, metrics=Metrics(folder, ranks),
    )  # fmt: skip


def test_every_row_comes_once_an_epoch_in_another_order_each_time():
    source = Rows(50, 16)
    trainer(source).run()
    epochs = [[r for e, rows in source.given if e == epoch for r in rows] for epoch in range(3)]
    assert all(sorted(rows) == list(range(50)) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_is_learnt_by_heart():
    """Six rows, no regularisation: the contrast finds each partner, the counts are predicted."""
    source = Rows(6, 6)
    past = trainer(
        source, dropout=0.0, how=Optimisation(weight_decay=0.0), epochs=400,
        losses=LossWeights(1.0, 0.0, 1.0, 0.0, near_um=0.0),
    )  # fmt: skip
    past.run()
    first, last = past.history[1]["losses"], past.history[-1]["losses"]
    assert last["expression"] < 0.35 * first["expression"]
    assert last["contrast"] < 0.05 < 1.0 < first["contrast"]
    images, cells = source.of
    member = past.model.networks()[0].eval()
    image, cell = member.image_projection(member.embed(images)), past.model.encode_cell(cells)
    assert (image @ cell.T).argmax(1).tolist() == list(range(6))


def test_the_best_epoch_is_kept_and_patience_ends_the_phase():
    scores = iter([0.1, 0.5, 0.9, 0.3, 0.2, 0.8, 0.7])
    seen = []

    def validation(member):
        seen.append({k: v.clone() for k, v in member.state_dict().items()})
        return {"score": next(scores)}

    past = trainer(Rows(20, 10), validation=validation, epochs=10, patience=3)
    past.run()
    assert [r["epoch"] for r in past.history] == [0, 1, 2, 3, 4, 5]
    for name, value in past.model.networks()[0].state_dict().items():
        assert torch.equal(value, seen[2][name]), name


def test_losses_that_have_no_weight_train_nothing():
    past = trainer(Rows(20, 10), losses=LossWeights(1.0, 0.0, 0.0, 0.0))
    before = {k: v.clone() for k, v in model(0.1).networks()[0].state_dict().items()}
    past.run()
    changed = {k for k, v in past.model.networks()[0].state_dict().items()
               if not torch.equal(v, before[k])}  # fmt: skip
    assert changed and all(
        name.startswith(("image_encoder.", "neighbourhood.", "expression_head.programmes."))
        for name in changed
    )


class Broken(Rows):
    """Row 7 has a count that is no number, from the second epoch on."""

    def batches(self, epoch, first):
        for given in super().batches(epoch, first):
            here = given.where()["S1"]
            if epoch == 1 and 7 in here:
                given.cells.counts[here.index(7), 2] = math.nan
            yield given


def test_a_batch_that_diverges_is_named_and_the_last_checkpoint_stays(tmp_path):
    past = trainer(Broken(30, 10), tmp_path / "run")
    with pytest.raises(InputError) as caught:
        past.run()
    error = caught.value
    assert (
        error.code == "train.diverged" and "S1" in error.where and "learning_rate" in error.remedy
    )
    (path,) = (tmp_path / "run" / "diverged").glob("*.json")
    said = json.loads(path.read_text())
    assert 7 in said["rows"][0]["S1"] and len(said["rows"][0]["S1"]) == 10
    assert said["losses"]["expression"] == "nan" and str(path) in error.what
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["progress"]["epoch"] == 1
    tensors = load_file(tmp_path / "run" / state["tensors"])
    assert all(torch.isfinite(value).all() for value in tensors.values())


def test_a_training_killed_inside_an_epoch_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path):
    steady, killed = tmp_path / "steady", tmp_path / "killed"
    trained(steady)
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.ml.training.test_loop", str(killed)], cwd=ROOT
    )
    state, deadline = killed / "state.json", time.monotonic() + 120
    while not (
        state.exists()
        and (at := json.loads(state.read_text())["progress"])["epoch"] >= 1
        and at["batch"] > 0
    ):
        assert child.poll() is None and time.monotonic() < deadline
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    left = json.loads(state.read_text())["progress"]
    assert not (killed / "weights.safetensors").exists()
    resumed = trained(killed)
    assert resumed.rows_seen["joint"] < 4 * 60, "it began anew"
    assert left["step"] > 0
    lines = [(folder / "metrics.jsonl").read_text() for folder in (steady, killed)]
    assert lines[0] == lines[1] and lines[0].count('"contrast"') == 4 * 5
    one, other = (load_file(folder / "weights.safetensors") for folder in (steady, killed))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def trained(folder: Path, pause: float = 0.0) -> Trainer:
    """Four epochs of steps of two batches, with dropout, average and a checkpoint each step."""
    from safetensors.torch import save_file

    class Slow(Rows):
        def batches(self, epoch, first):
            for given in super().batches(epoch, first):
                time.sleep(pause)
                yield given

    how = Optimisation(accumulate=2, ema=0.9, checkpoint_minutes=0.0, log_every=1)
    past = trainer(Slow(60, 6), folder, how, epochs=4)
    past.run()
    save_file(past.model.state_dict(), folder / "weights.safetensors")
    return past


def test_figures_are_those_of_their_own_step_however_late_they_are_read(tmp_path):
    """Losses are looked at every hundredth step; each line has its own step's learning rate."""
    for every in (1, 100):
        trainer(Rows(60, 6), tmp_path / str(every), replace(HOW, log_every=every, warmup=2.0)).run()
    early, late = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("1", "100"))
    assert early == late
    rates = [json.loads(line)["learning_rate"] for line in late.splitlines() if "rate" in line]
    assert len(rates) == 30 and rates[2:20] == sorted(set(rates[2:20]))  # the warm-up rises


def test_on_a_gpu_the_step_that_diverged_is_found_later(tmp_path):
    guard = Guard(tmp_path, torch.device("cuda"), Ranks())
    bad = {2: (math.inf, 1.0), 3: (1.0, math.nan)}
    for step in range(1, 5):
        loss, norm = bad.get(step, (1.0, 1.0))
        given = batch(Rows(20, 5).of, torch.arange(5 * step - 5, 5 * step), 5)
        guard.watch(step, 1e-3, {"counts": torch.tensor(loss)}, torch.tensor(norm), [given])
    seen = []
    with pytest.raises(InputError) as caught:
        seen.extend(step.number for step in guard.checked())
    assert "step 2," in caught.value.where and "last checkpoint" in caught.value.what
    said = json.loads((tmp_path / "diverged" / "step-2-rank-0.json").read_text())
    assert said["rows"] == [{"S1": [5, 6, 7, 8, 9]}] and said["losses"] == {"counts": "inf"}


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path):
    trainer(Rows(20, 10), tmp_path, epochs=1).run()
    report = Recorder()
    report.log = (said := []).append
    other = trainer(Rows(20, 10), tmp_path, epochs=2, report=report)
    other.run()
    assert any("another training" in text for text in said)
    assert other.rows_seen["joint"] == 40


def test_with_a_moving_average_it_is_what_is_validated_and_kept():
    """Against the literal average of the weights after each step of the same training without."""

    class Kept(Rows):
        def batches(self, epoch, first):
            for given in super().batches(epoch, first):
                before.append({n: p.detach().clone() for n, p in network.named_parameters()})
                yield given

    before, source = [], Kept(24, 8)
    plain = trainer(source)
    network = plain.model.networks()[0]
    plain.run()
    after = [*before[1:], {n: p.detach().clone() for n, p in network.named_parameters()}]
    literal = before[0]
    for step, weights in enumerate(after, 1):
        decay = min(0.9, (1 + step) / (10 + step))
        literal = {n: decay * literal[n] + (1 - decay) * w for n, w in weights.items()}

    validated = []

    def validation(member):
        validated.append({n: p.detach().clone() for n, p in member.named_parameters()})
        return {"score": float(len(validated))}

    averaged = trainer(Rows(24, 8), how=replace(HOW, ema=0.9), validation=validation)
    averaged.run()
    kept = dict(averaged.model.networks()[0].named_parameters())
    for name, value in literal.items():
        assert torch.allclose(kept[name], value, atol=1e-5), name
        assert torch.equal(kept[name], validated[-1][name]), name
    assert any(not torch.allclose(kept[n], w, atol=1e-3) for n, w in after[-1].items())


def test_the_moving_average_is_the_literal_one():
    member = model().networks()[0]
    average = MovingAverage(member, 0.9)
    weight = member.image_projection.projection.weight
    literal = weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            weight += torch.randn_like(weight)
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        literal = decay * literal + (1 - decay) * weight.detach()
    own = weight.detach().clone()
    with average.in_place():
        assert torch.allclose(weight, literal, atol=1e-5)
    assert torch.equal(weight, own)


def test_rates_of_groups_survive_the_schedule():
    """In the authors' code the schedule overwrites the image encoder's lower rate."""
    member = model().networks()[0]
    member.image_encoder.encoder = torch.nn.Linear(3, 3)
    how = Optimisation(encoder_scale=0.1)
    optimiser = adamw(member, how, 1e-3)
    encoder = {id(p) for p in member.image_encoder.encoder.parameters()}
    for epoch in (0.5, 1.0, 7.3):
        rate = 1e-3 * schedule(epoch, 10, how)
        set_rate(optimiser, rate)
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                scale = 0.1 if id(parameter) in encoder else 1.0
                assert group["lr"] == pytest.approx(rate * scale)


def test_schedule_warms_up_and_falls_to_its_floor():
    how = Optimisation(warmup=2.0, floor=0.01)
    values = [schedule(e, 20, how) for e in np.linspace(0, 20, 200)]
    peak = int(np.argmax(values))
    assert np.linspace(0, 20, 200)[peak] == pytest.approx(2.0, abs=0.1)
    assert values[0] == 0.05 and values[-1] == pytest.approx(0.01)
    assert np.all(np.diff(values[:peak]) >= 0) and np.all(np.diff(values[peak + 1 :]) <= 0)


def test_decay_is_for_matrices_alone():
    member = model().networks()[0]
    decayed = {id(p) for g in parameter_groups(member, Optimisation(weight_decay=0.1))
               if g["weight_decay"] for p in g["params"]}  # fmt: skip
    for name, parameter in member.named_parameters():
        spared = (
            parameter.ndim < 2 or "embedding" in name or "norm" in name or name.endswith("bias")
        )
        assert (id(parameter) in decayed) is not spared, name
    assert id(member.log_temperature) not in decayed


def test_too_little_memory_names_the_remedy():
    class Huge(Rows):
        def batches(self, epoch, first):
            for given in super().batches(epoch, first):
                torch.empty(1 << 60, dtype=torch.uint8)
                yield given

    with pytest.raises(InputError) as caught:
        trainer(Huge(20, 10)).run()
    assert caught.value.code == "train.memory" and "accumulate" in caught.value.remedy


def test_sums_of_batches_are_means_over_rows():
    """The epoch's loss is the mean over its rows, whatever the batches' sizes."""
    losses = LossWeights(1.0, 0.0, 0.0, 0.0)
    found = []
    for size in (20, 7):
        past = trainer(Rows(20, size), dropout=0.0, losses=losses, epochs=1, learning_rate=0.0)
        past.run()
        found.append(past.history[-1]["losses"]["expression"])
    images, cells = Rows(20, 20).of
    whole = batch((images, cells), torch.arange(20), 20)
    literal = model().networks()[0](whole.images, whole.cells, losses).losses["expression"]
    assert found == pytest.approx([float(literal.detach())] * 2, rel=1e-5)
    assert ALL.contrast  # the default weights of the other tests train everything


if __name__ == "__main__":
    trained(Path(sys.argv[1]), pause=0.05)
