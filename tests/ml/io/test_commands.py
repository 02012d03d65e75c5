from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ml.errors import InputError
from ml.io.commands import add_commands


def past(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    arguments = parser.parse_args(words)
    return int(arguments.run(arguments))


def test_check(
    study: Path, change: Callable[[str, str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert past("check", str(study)) == 0
    assert "2 patients, 2 outcomes, 2 slides (1 with cells or spots)" in capsys.readouterr().out
    change("outcomes.csv", "12.5", "-1")
    with pytest.raises(InputError, match=r"outcomes.csv row 2: time is -1 months"):
        past("check", str(study))


def test_convert(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert past("convert", str(study), str(out)) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["slides"] == 2
    result = json.loads((out / "result.json").read_text())
    assert (out / result["slides"][1]["file"]).exists()
