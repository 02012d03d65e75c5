"""`past check` and `past convert`: a study folder, published data set or published checkpoint,
checked or converted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ml.report import ConsoleReport, plain

CHECKPOINTS = (".pth", ".pt", ".safetensors")


def add_commands(commands: Any) -> None:
    """Adds both commands to the subparsers of `past`; each sets ``run(arguments) -> int``."""
    check = commands.add_parser("check", help="check a study folder: every row and every file")
    check.add_argument("folder", type=Path, help="the study folder")
    check.set_defaults(run=_check)
    convert = commands.add_parser(
        "convert",
        help="turn a study folder, her2st or TCGA KIRC into pyramids and tables, or a published "
        "PAST checkpoint (.pth, .safetensors) into a model folder",
    )
    convert.add_argument("path", type=Path, help="the folder or checkpoint to convert")
    convert.add_argument("out", type=Path, help="a new folder for what is made of it")
    convert.add_argument("--format", choices=["auto", "study", "her2st", "kirc"], default="auto")
    for side in ("image", "cell"):
        convert.add_argument(
            f"--{side}-heads", type=int, help=f"attention heads of a checkpoint's {side} encoder"
        )
    convert.set_defaults(run=_convert)


def _check(arguments: argparse.Namespace) -> int:
    from ml.io.study import read_study

    study = read_study(arguments.folder)
    measured = sum(slide.cells is not None for slide in study.slides)
    print(
        f"{study.head.name}: {len(study.patients)} patients, {len(study.outcomes)} outcomes, "
        f"{len(study.slides)} slides ({measured} with cells or spots). No mistake found."
    )
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    if arguments.path.suffix in CHECKPOINTS:
        return _convert_checkpoint(arguments)
    from ml.run import run_spec

    result = run_spec(
        {
            "kind": "import",
            "params": {"format": arguments.format},
            "inputs": {"path": str(arguments.path)},
            "out": str(arguments.out),
        },
        ConsoleReport(),
    )
    counts = {
        part: len(result[part]) for part in ("patients", "outcomes", "slides", "patient_tables")
    }
    print(json.dumps(plain({"out": str(arguments.out), **counts})))
    return 0


def _convert_checkpoint(arguments: argparse.Namespace) -> int:
    from ml.models.reference_files import convert

    convert(arguments.path, arguments.out, arguments.image_heads, arguments.cell_heads)
    print(json.dumps({"model": str(arguments.out)}))
    return 0
