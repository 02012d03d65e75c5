"""The training job with an encoder that is trained on crops, from the sections to its result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ml.cli import main
from ml.errors import InputError
from ml.io.store import content_hash
from ml.models import checkpoint
from ml.models.batches import CropBatch
from ml.run import run_spec
from ml.training.shards.reader import Corpus
from tests.ml.training.corpora import Said, files_of, write_study
from tests.ml.training.tiny import NAME, SMALL

PARTS = {"S0": "train", "S1": "train", "S2": "validation", "S3": "test"}
SETTINGS = {"batch": 16, "optimisation": {"log_every": 1}}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slides; the first two rows of each have no counts."""
    return write_study(tmp_path_factory.mktemp("job") / "study", slides=4, cells=30, silent=2)


def spec(study: Path, out: Path, **params: Any) -> dict[str, Any]:
    sections = [
        {
            "slide": str(study / f"slides/{code}.tif"), "table": str(study / f"cells/{code}.zarr"),
            "slide_code": code, "patient": code.replace("S", "P"), "part": part, "mpp": 0.5,
            "slide_sha256": content_hash(study / f"slides/{code}.tif")[0],
            "table_sha256": content_hash(study / f"cells/{code}.zarr")[0],
        }
        for code, part in PARTS.items()
    ]  # fmt: skip
    usual = {"encoder": NAME, "epochs": 2, "architecture": SMALL, "settings": SETTINGS}
    inputs = {"sections": sections, "parent": None, "work": str(out / "work")}
    return {
        "kind": "train", "params": {**usual, **params}, "inputs": inputs, "out": str(out / "out"),
    }  # fmt: skip


def test_the_result_is_that_of_any_training(study: Path, tmp_path: Path) -> None:
    result = run_spec(spec(study, tmp_path), Said())
    metrics = result["metrics"]
    assert metrics["n_rows"] == 56 and metrics["epochs"] == 2 and metrics["n_genes"] == 40
    assert [e["part"] for e in result["evaluations"]] == ["validation", "test"]
    assert {"pcc_median", "retrieval", "scc_median", "n_rows"} <= set(metrics["test"])
    assert metrics["test"]["n_rows"] == 28 and metrics["cells_per_s"] > 0
    assert metrics["ood"]["threshold_from"] == "validation"
    model = checkpoint.load(tmp_path / "out/model")
    assert model.config.encoder == NAME and model.config.features is None
    assert [s["part"] for s in model.config.provenance["sections"]] == list(PARTS.values())
    corpus = Corpus(tmp_path / "work/corpus")
    fitted = {t["slide"] for t in corpus.manifest.vocabulary_from["tables"]}
    assert fitted == {"S0", "S1"} and len(corpus) == 4 * 28
    assert corpus.vocabulary.means["unstated"] == pytest.approx(
        model.config.vocabulary.nonzero_means
    )
    # What the rows look like is kept once, in the corpus.
    assert not list((tmp_path / "work").rglob("*.u8"))


def test_a_second_attempt_goes_on_with_the_corpus_and_the_checkpoint(
    study: Path, tmp_path: Path
) -> None:
    first = run_spec(spec(study, tmp_path), Said())
    before = files_of(tmp_path / "work/corpus")
    weights = (tmp_path / "out/model/model.safetensors").read_bytes()
    # As a job that was killed after its last epoch: half of the corpus is gone as well.
    next((tmp_path / "work/corpus").glob("??/*.crops")).unlink()
    said = Said()
    again = run_spec(spec(study, tmp_path), said)
    assert files_of(tmp_path / "work/corpus") == before
    assert "sections, slide S3 is in the corpus already." in " ".join(said.lines)
    assert (tmp_path / "out/model/model.safetensors").read_bytes() == weights
    assert again["metrics"]["test"]["pcc_median"] == first["metrics"]["test"]["pcc_median"]


def test_a_study_with_a_crop_encoder_by_its_config(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    sizes = "\n".join(f"{key} = {value}" for key, value in SMALL.items())
    config.write_text(
        f'out = "trained"\n[data]\nstudy = "{study}"\ntest = ["S3"]\n[model]\nencoder = "{NAME}"\n'
        f"[architecture]\n{sizes}\n[training]\nepochs = 1\n"
    )
    assert main(["train", str(config)]) == 0
    assert '"n_rows": 28' in capsys.readouterr().out
    rng = torch.Generator().manual_seed(0)
    crops = CropBatch(
        *(torch.randint(0, 255, (2, s, s, 3), dtype=torch.uint8, generator=rng) for s in (224, 112))
    )
    assert checkpoint.load(tmp_path / "trained/model").predict(crops).shape == (2, 40)


def test_scaling_over_whole_tables_is_refused(study: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run_spec(spec(study, tmp_path, scale_over="table"), Said())
    assert caught.value.code == "train.scale_over"
