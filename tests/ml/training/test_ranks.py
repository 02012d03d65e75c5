"""Whole trainings in two processes: like one process, and killed ones like uninterrupted ones."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ml.errors import InputError
from ml.models.past import LossWeights
from ml.training.distributed import Ranks, end_at_once
from ml.training.loop import Trainer
from tests.ml.training.rows import Rows
from tests.ml.training.test_loop import HOW, trainer
from tests.ml.training.two import both_end

# Without hidden genes, which each process draws for itself.
LOSSES = LossWeights(expression=1.0, counts=0.5, contrast=1.0, masked_gene=0.0)
EACH_STEP = replace(HOW, checkpoint_minutes=0.0, log_every=1, ema=0.9)
ROWS, SIZE, EPOCHS = 45, 10, 3


def of_two(source: Rows, folder: Path, ranks: Ranks) -> Trainer:
    return trainer(
        source, folder, EACH_STEP, dropout=0.0, ranks=ranks, losses=LOSSES, epochs=EPOCHS
    )


def test_two_processes_train_like_one_and_resume_like_uninterrupted_ones(tmp_path):
    one = of_two(Rows(ROWS, SIZE), tmp_path / "one", Ranks())
    one.run()
    steady, killed = tmp_path / "steady", tmp_path / "killed"
    module = "tests.ml.training.test_ranks"
    assert both_end(module, str(steady)) == [0, 0]
    assert both_end(module, str(killed), "die") == [-signal.SIGKILL] * 2
    left = json.loads((killed / "state.json").read_text())["progress"]
    assert left["epoch"] == 1 and left["batch"] == 3
    assert not (killed / "weights.safetensors").exists()
    assert both_end(module, str(killed)) == [0, 0]

    weights = [load_file(folder / "weights.safetensors") for folder in (steady, killed)]
    for name, value in one.model.state_dict().items():
        assert torch.equal(weights[0][name], weights[1][name]), name
        assert torch.allclose(weights[0][name], value, rtol=1e-2, atol=2e-3), name
    written = [(folder / "metrics.jsonl").read_text() for folder in (steady, killed)]
    assert written[0] == written[1]
    losses = [
        [json.loads(line)["contrast"] for line in text.splitlines() if "contrast" in line]
        for text in (written[0], (tmp_path / "one" / "metrics.jsonl").read_text())
    ]
    assert len(losses[0]) == EPOCHS * -(-ROWS // SIZE)
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


class Deadly(Rows):
    """Ends the process for good in the middle of the second epoch."""

    def batches(self, epoch, first):
        for number, given in enumerate(super().batches(epoch, first), first):
            if epoch == 1 and number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield given


def one_rank(folder: Path, dies: bool) -> None:
    """What each of two processes does. The second one's clock stands still: all the same it saves
    together with the first."""
    ranks = Ranks.join()
    train_and_resume(ranks, folder, dies)
    ranks.leave()
    end_at_once()


def train_and_resume(ranks: Ranks, folder: Path, dies: bool) -> None:
    if not ranks.first:
        time.monotonic = lambda: 0.0
    source = (Deadly if dies else Rows)(ROWS, SIZE // 2, ranks)
    past = of_two(source, folder, ranks)
    past.run()
    if ranks.first:
        save_file(past.model.state_dict(), folder / "weights.safetensors")
    else:
        folder = folder / "of-another-machine"
    # Started again with a folder that only the first process sees:
    try:
        of_two(source, folder, ranks)._resume()
        assert ranks.first
    except InputError as error:
        assert not ranks.first and error.code == "train.checkpoint_folder"


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]), "die" in sys.argv)
