"""Whole trainings on a corpus of shards, as their config files describe them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ml.errors import InputError
from ml.models import checkpoint
from ml.models.batches import CropBatch
from ml.training.calibrate import calibrate
from ml.training.shards.build import build_corpus
from ml.training.shards.layout import Settings as CorpusSettings
from ml.training.shards.reader import Corpus
from ml.training.shards.sources import read_sources
from ml.training.train_file import train_file
from tests.ml.training.corpora import Said, expression, two_panels, write_study
from tests.ml.training.tiny import OWNED, SMALL, history, write_config, write_weights

ROOT = Path(__file__).resolve().parents[2]
EVERY_STEP = {"log_every": 1, "checkpoint_minutes": 0.0, "clip": 5.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_panels(tmp_path_factory.mktemp("shards"))


def run(
    config: Path, *, processes: int = 1, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Trains in processes of their own, as a user would start them."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    words = [sys.executable, *(torchrun if processes > 1 else []), "-m", "tests.ml.training.tiny"]
    return subprocess.run(
        [*words, str(config)], cwd=ROOT, check=check, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip


def split(**training: object) -> dict[str, dict[str, object]]:
    return {
        "data": {"validation": ["P1"], "test": ["s/P2"]},
        "training": {"epochs": 2, "batch": 16, **training},
        "optimisation": EVERY_STEP,
    }


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """An undisturbed training in a process of its own."""
    run(write_config(folder / "whole.toml", out="whole", **split()))
    return folder / "whole"


class TestRuns:
    """Whole trainings by their config files."""

    def test_what_a_run_leaves(self, whole: Path, folder: Path) -> None:
        record = json.loads((whole / "run.json").read_text())
        assert record["data"]["parts"] == {
            "train": ["s/S0", "t/S0"], "validation": ["s/S1"], "test": ["s/S2"],
        }  # fmt: skip
        assert record["data"]["manifest_sha256"] and record["data"]["vocabulary_sha256"]
        assert record["config"]["given"]["training"]["epochs"] == 2
        assert record["environment"]["torch"] == torch.__version__
        assert record["code"]["past"] and record["seeds"] == {"training": 0, "split": 0}
        (session,) = record["sessions"]
        assert session["started"] <= session["ended"] and session["ranks"] == 1
        metrics = json.loads((whole / "evaluation/metrics.json").read_text())
        assert metrics["test"]["n_rows"] == 40 and metrics["validation"]["n_genes"] == 40
        assert -1 <= metrics["test"]["pcc_median"] <= 1
        assert metrics["test"]["retrieval"]["chance_r1"] == pytest.approx(1 / 40)
        assert metrics["ood"]["threshold_from"] == "validation" and metrics["n_cells"] == 70
        table = (whole / "evaluation/per_gene.csv").read_text().splitlines()
        assert table[0] == "part,gene,pcc" and len(table) == 1 + 2 * 40
        assert not list(whole.rglob("*.part"))

    def test_the_model_that_was_saved_predicts(self, whole: Path, folder: Path) -> None:
        model = checkpoint.load(whole / "model")
        rng = np.random.default_rng(0)
        crops = CropBatch(
            *(torch.from_numpy(rng.integers(0, 255, (3, s, s, 3), np.uint8)) for s in (224, 112))
        )
        assert model.predict(crops).shape == (3, 40)
        assert model.density is not None and model.density.distance(model.described(crops)).all()
        values, slide = expression(Corpus(folder / "corpus"), (0, 3))
        mean = values.sum(0) / Corpus(folder / "corpus").manifest.measured(40)[slide].sum(0)
        assert np.allclose(model.networks()[0].expression_head.mean, mean, atol=1e-5)
        assert model.config.provenance["parts"]["test"] == ["s/S2"]
        assert model.config.vocabulary.symbols == Corpus(folder / "corpus").vocabulary.symbols

    def test_a_killed_run_ends_like_an_undisturbed_one(self, whole: Path, folder: Path) -> None:
        config = write_config(folder / "killed.toml", out="killed", **split())
        out = folder / "killed"
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.ml.training.tiny", str(config)], cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 120

        def at() -> int:
            state = out / "checkpoint/state.json"
            return json.loads(state.read_text())["progress"]["step"] if state.exists() else 0

        while at() < 2 and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        stopped = json.loads((out / "checkpoint/state.json").read_text())["progress"]
        assert child.returncode == -signal.SIGKILL and not (out / "model").exists()
        assert stopped["batch"] > 0, "it was to be killed within an epoch"
        run(config)
        assert [h["step"] for h in history(out)] == list(range(1, 11))
        assert history(out) == history(whole)
        for name in ("model/model.safetensors", "evaluation/per_gene.csv"):
            assert (out / name).read_bytes() == (whole / name).read_bytes()
        assert len(json.loads((out / "run.json").read_text())["sessions"]) == 2

    def test_two_processes_train_like_one_with_the_double_batch(self, folder: Path) -> None:
        # Without what is random in each rank: dropout and hidden genes.
        tables = {
            **split(), "architecture": {**SMALL, "dropout": 0.0},
            "losses": {"contrast": 0.0, "masked_gene": 0.0},
        }  # fmt: skip
        for out, processes, batch in (("one", 1, 16), ("two", 2, 8)):
            tables["training"] = {"epochs": 2, "batch": batch}
            run(write_config(folder / f"{out}.toml", out=out, **tables), processes=processes)
        one, two = (
            json.loads((folder / out / "run.json").read_text())["history"] for out in ("one", "two")
        )
        assert [h["train_loss"] for h in two] == pytest.approx(
            [h["train_loss"] for h in one], rel=1e-4
        )
        norms = [[h["gradient_norm"] for h in history(folder / out)] for out in ("one", "two")]
        assert norms[1][:4] == pytest.approx(norms[0][:4], rel=1e-3)
        scores = [json.loads((folder / o / "evaluation/metrics.json").read_text()) for o in
                  ("one", "two")]  # fmt: skip
        assert scores[1]["test"]["pcc_median"] == pytest.approx(
            scores[0]["test"]["pcc_median"], abs=1e-3
        )
        assert scores[1]["test"]["n_rows"] == 40 and scores[1]["n_cells"] == 70

    def test_vit_tiny_from_the_module(self, folder: Path) -> None:
        """`python -m ml.training CONFIG` with an encoder of the product, and readers ahead."""
        build_corpus(
            folder / "few", read_sources(write_study(folder / "u", "u", 2, 12), "Xenium")[:1],
            Said(), settings=CorpusSettings("jpeg"),
        )  # fmt: skip
        config = write_config(
            folder / "tiny.toml", out="tiny", model={"encoder": "vit_tiny"},
            data={"corpus": "few", "workers": 2},
            training={"epochs": 1, "batch": 12}, optimisation={"log_every": 1},
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "ml.training", str(config)], cwd=ROOT, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        printed = json.loads(done.stdout.strip().splitlines()[-1])
        assert Path(printed["model"]) == folder / "tiny/model" and printed["n_cells"] == 12
        assert checkpoint.load(folder / "tiny/model").config.encoder == "vit_tiny"

    def test_an_adapted_encoder_keeps_its_owners_weights(self, folder: Path) -> None:
        owner = write_weights(folder / "owner.safetensors")
        config = write_config(
            folder / "adapted.toml", out="adapted", **split(),
            model={"encoder": OWNED, "weights": str(owner)},
            architecture={**SMALL, "lora_rank": 2},
        )  # fmt: skip
        train_file(config)
        (member,) = checkpoint.load(folder / "adapted/model").networks()
        found = member.image_encoder.encoder.state_dict()
        for name, value in load_file(owner).items():
            assert torch.equal(found[name], value), name
        up = [value for name, value in found.items() if name.endswith("lora_up")]
        assert len(up) == 2 and all(value.abs().max() > 0 for value in up)

    def test_another_config_does_not_overwrite_a_run(self, whole: Path, folder: Path) -> None:
        config = write_config(folder / "other.toml", out="whole", **split(learning_rate=0.1))
        before = (whole / "run.json").read_bytes()
        with pytest.raises(InputError, match="differs in training") as caught:
            train_file(config)
        assert caught.value.code == "train.other_run"
        assert (whole / "run.json").read_bytes() == before


class TestCalibration:
    """What whole slides and their tables add to a model of a corpus."""

    @pytest.fixture
    def model(self, whole: Path, tmp_path: Path) -> Path:
        shutil.copytree(whole / "model", tmp_path / "model")
        return tmp_path / "model"

    def test_a_model_of_a_corpus_is_given_intervals_and_both_ways(
        self, model: Path, folder: Path, tmp_path: Path
    ) -> None:
        before = checkpoint.load(model)
        assert before.intervals is None and before.refinement is None
        found = calibrate(model, [folder / "s"], tmp_path / "work", Said())
        assert found["slides"] == {"train": ["S0"], "validation": ["S1"], "test": ["S2"]}
        assert set(found["intervals"]["coverage"]) == {"test"}
        assert len(found["intervals"]["half_width"]) == 40
        assert found["ways"]["part"] == "validation" and found["ways"]["rows"] > 1
        after = checkpoint.load(model)
        assert after.intervals is not None and after.refinement is not None
        assert after.density is not None
        kept = after.members[0].state_dict()
        for name, value in before.members[0].state_dict().items():
            assert torch.equal(kept[name], value), name
        assert json.loads((model / "calibration.json").read_text())["slides"] == found["slides"]

    def test_what_cannot_calibrate_is_refused(
        self, model: Path, folder: Path, tmp_path: Path
    ) -> None:
        def refused(*studies: Path) -> InputError:
            with pytest.raises(InputError) as caught:
                calibrate(model, list(studies), tmp_path / "work", Said())
            return caught.value

        before = (model / "model.safetensors").read_bytes()
        error = refused(folder / "t")
        assert error.code == "calibrate.no_slides" and "s/S1" in error.remedy
        assert refused(folder / "s", folder / "t").code == "calibrate.no_slides"  # S0 twice
        data = json.loads((folder / "s/result.json").read_text())
        data["slides"][1]["cells"]["path"] = "../t/cells/S0.zarr"
        shutil.copytree(folder / "s", tmp_path / "s")
        shutil.copytree(folder / "t", tmp_path / "t")
        (tmp_path / "s/result.json").write_text(json.dumps(data))
        error = refused(tmp_path / "s")
        assert error.code == "calibrate.genes" and "34" in error.what
        config = json.loads((model / "config.json").read_text())
        del config["provenance"]["parts"]
        (model / "config.json").write_text(json.dumps(config))
        assert refused(folder / "s").code == "calibrate.parts"
        assert (model / "model.safetensors").read_bytes() == before


class TestBadInput:
    """What is wrong is named; nothing is trained on it."""

    def refused(self, folder: Path, **tables: dict[str, object]) -> InputError:
        config = write_config(folder / "bad.toml", out="bad", **tables)
        with pytest.raises(InputError) as caught:
            train_file(config)
        assert not (folder / "bad/model").exists()
        shutil.rmtree(folder / "bad", ignore_errors=True)
        return caught.value

    @pytest.fixture
    def copy(self, folder: Path, tmp_path: Path) -> Path:
        shutil.copytree(folder / "corpus", tmp_path / "corpus")
        return tmp_path

    def test_means_fitted_to_held_out_patients(self, folder: Path) -> None:
        error = self.refused(folder, data={"test": ["s/P0", "t/P0"]})
        assert error.code == "split.vocabulary_leak" and "--fit-on-patients" in error.remedy

    def test_a_corpus_without_crops(self, folder: Path, tmp_path: Path) -> None:
        sources = read_sources(folder / "s", "Xenium")
        build_corpus(tmp_path / "corpus", sources, Said(), settings=CorpusSettings("none"))
        assert self.refused(tmp_path).code == "corpus.no_crops"

    def test_an_encoder_that_only_has_maps(self, folder: Path) -> None:
        error = self.refused(folder, model={"encoder": "efficientnet_lite0"})
        assert error.code == "train.encoder" and "vit_tiny" in error.remedy

    def test_weights_for_an_encoder_that_has_none(self, folder: Path) -> None:
        error = self.refused(folder, model={"weights": "file.bin"})
        assert error.code == "train.encoder_weights"

    def test_an_adaptation_of_an_encoder_that_is_trained_anyway(self, folder: Path) -> None:
        error = self.refused(folder, architecture={**SMALL, "lora_rank": 2})
        assert error.code == "train.lora" and "lora_rank" in error.where

    @pytest.mark.parametrize("suffix", ["safetensors", "crops"])
    def test_a_corrupt_shard_is_named(self, copy: Path, suffix: str) -> None:
        path = sorted(copy.glob(f"corpus/??/*S0-000.{suffix}"))[0]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        error = self.refused(copy, training={"epochs": 1, "batch": 16})
        assert error.code == "corpus.damaged_shard"
        assert path.stem in error.where and "past corpus build" in error.remedy

    def test_a_vocabulary_that_is_not_the_corpus(self, copy: Path) -> None:
        path = copy / "corpus/vocabulary/genes.csv"
        path.write_text(path.read_text().replace("G003", "G999"))
        error = self.refused(copy)
        assert error.code == "corpus.vocabulary_damaged"

    @pytest.mark.parametrize("change", ["missing", "extra", "shape"])
    def test_a_checkpoint_with_other_keys(self, whole: Path, tmp_path: Path, change: str) -> None:
        shutil.copytree(whole / "model", tmp_path / "model")
        path = tmp_path / "model/model.safetensors"
        tensors = load_file(path)
        name = "members.0.expression_head.programmes.weight"
        if change == "missing":
            del tensors[name]
        elif change == "extra":
            tensors["members.0.expression_head.more"] = torch.zeros(2)
        else:
            tensors[name] = tensors[name][:, :3].contiguous()
        save_file(tensors, path)
        with pytest.raises(InputError, match="do not fit") as caught:
            checkpoint.load(tmp_path / "model")
        assert caught.value.code == "model.weights"
        wanted = {"missing": name, "extra": "more", "shape": name}[change]
        assert wanted in caught.value.what
