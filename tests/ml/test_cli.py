"""The command line: files in, files out, and errors a user can act on."""

import json
import subprocess
import sys
from pathlib import Path

from ml.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_convert_train_predict(generated, tmp_path, capsys):
    study, trained, predicted = (tmp_path / n for n in ("study", "trained", "predicted"))
    assert main(["convert", str(generated), str(study)]) == 0
    config = tmp_path / "run.toml"
    config.write_text(
        'out = "trained"\n[data]\nstudy = "study"\nvalidation = ["P008-core"]\n'
        'test = ["P010-core"]\n[model]\nencoder = "efficientnet_lite0"\npreset = "tiny"\n'
        "[training]\nepochs = 1\n"
    )
    assert main(["train", str(config)]) == 0
    record = json.loads((trained / "run.json").read_text())
    parts = {s["slide_code"]: s["part"] for s in record["data"]["sections"]}
    assert (parts["P008-core"], parts["P010-core"]) == ("validation", "test")
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["test"]["n_genes"] == 120 and Path(last["model"]).is_dir()
    assert (
        main(["predict", last["model"], str(study), str(predicted), "--slides", "P014-core"]) == 0
    )
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert last["rows"]["P014-core"] > 20
    assert (predicted / "patients.parquet").is_file()
    assert (predicted / "layers" / "P014-core.zarr").is_dir()


def test_input_errors_end_with_status_3_and_the_remedy(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('out = "out"\n[data]\nstudy = "study"\n')
    done = subprocess.run(
        [sys.executable, "-m", "ml.cli", "train", str(config)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 3
    assert "result.json" in done.stderr and "past convert" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_slides_are_named(generated, tmp_path, capsys):
    study = tmp_path / "study"
    assert main(["convert", str(generated), str(study)]) == 0
    config = tmp_path / "run.toml"
    config.write_text('out = "out"\n[data]\nstudy = "study"\ntest = ["Q9"]\n')
    assert main(["train", str(config)]) == 3
    assert "Q9" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_her2st_without_its_files_is_refused(tmp_path, capsys):
    assert main(["trial", "her2st", str(tmp_path), "--out", str(tmp_path / "out")]) == 3
    assert "counts/" in capsys.readouterr().err


def test_the_command_starts_without_the_science_stack():
    """`past --help` answers at once: torch is imported only by what needs it."""
    code = "import sys, ml.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0
    )
