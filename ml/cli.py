"""`past`: the steps of the workbench on files, without its database."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from ml.errors import InputError
from ml.report import ConsoleReport, plain

INPUT_EXIT = 3
NOTICE = "Research use only – not for diagnosis or treatment."


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 3 the input must be changed."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        status: int = given.run(given)
    except InputError as error:
        print(f"past: {error.where}: {error.what}\n      {error.remedy}", file=sys.stderr)
        return INPUT_EXIT
    return status


def _parser() -> argparse.ArgumentParser:
    from ml.evaluation.commands import add_commands as add_evaluation
    from ml.io.commands import add_commands
    from ml.tasks.type_commands import add_commands as add_types
    from ml.tokens.commands import add_commands as add_vocabulary
    from ml.training.commands import add_commands as add_training
    from ml.training.shards.commands import add_commands as add_corpus

    parser = argparse.ArgumentParser(prog="past", description=f"{__doc__} {NOTICE}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_commands(commands)
    add_vocabulary(commands)
    add_corpus(commands)
    add_evaluation(commands)
    add_training(commands)
    add_types(commands)
    _add_predict(commands)
    _add_trial(commands)
    return parser


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser("predict", help="predict expression for slides of a study")
    predict.add_argument("model", type=Path, help="the model/ folder of a training")
    predict.add_argument("study", type=Path, help="folder that `past convert` wrote")
    predict.add_argument("out", type=Path, help="folder for layers/, tables/, patients.parquet")
    predict.add_argument("--slides", nargs="*", metavar="SLIDE", help="all slides by default")
    predict.add_argument(
        "--way", help="crop (each row by itself) or shared (whole tiles); as trained by default"
    )
    predict.set_defaults(run=_predict)


def _add_trial(commands: Any) -> None:
    trial = commands.add_parser("trial", help="a trial on published data, with its table")
    trial.add_argument("name", choices=["her2st", "kirc"])
    trial.add_argument("path", type=Path, help="the published folder or file")
    trial.add_argument("--out", type=Path, help="folder for results; trial-NAME by default")
    trial.set_defaults(run=_trial)


def _predict(given: argparse.Namespace) -> int:
    from ml.io.store import content_hash
    from ml.io.study.converted import check_slides, converted_study, mpp_of
    from ml.models.checkpoint import load
    from ml.run import run_spec

    row_kind = load(given.model).config.row_kind
    slides = converted_study(given.study)["slides"]
    check_slides(slides, given.slides or [], "--slides")
    targets = []
    for slide in slides:
        if given.slides and slide["code"] not in given.slides:
            continue
        table = None
        if slide["cells"] and slide["cells"]["row_kind"] == row_kind:
            table = given.study / slide["cells"]["path"]
        targets.append(
            {
                "slide": str(given.study / slide["file"]),
                "slide_code": slide["code"],
                "patient": slide["patient"],
                "mpp": mpp_of(slide),
                "table": str(table) if table else None,
                "table_sha256": content_hash(table)[0] if table else None,
            }
        )
    work = given.out / "work"  # it stays after an interruption, for the same command to go on
    result = run_spec(
        {
            "kind": "predict",
            "params": {"way": given.way},
            "inputs": {
                "model": str(given.model), "model_sha256": content_hash(given.model)[0],
                "slides": targets, "work": str(work),
            },
            "out": str(given.out),
        },
        ConsoleReport(),
    )  # fmt: skip
    shutil.rmtree(work)
    rows = {slide["slide_code"]: slide["n_rows"] for slide in result["slides"]}
    print(
        json.dumps(
            plain(
                {
                    "out": str(given.out),
                    "rows": rows,
                    "way": result["way"],
                    "seconds": result["seconds"],
                }
            )
        )
    )
    return 0


def _trial(given: argparse.Namespace) -> int:
    out = given.out or Path(f"trial-{given.name}")
    out.mkdir(parents=True, exist_ok=True)
    if given.name == "her2st":
        from ml.tasks import expression_trial

        expression_trial.main(given.path, out, ConsoleReport())
    else:
        from ml.tasks import survival_trial

        survival_trial.main(given.path, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
