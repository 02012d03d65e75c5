"""`past audit`, `past evaluate`, `past benchmark`, `past card` and `past evidence`."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml.errors import InputError
from ml.report import ConsoleReport, plain

LOOKS = "looks.jsonl"


def add_commands(commands: Any) -> None:
    """Adds them to the subparsers of `past`."""
    audit = commands.add_parser(
        "audit", help="prove that no patient, section or picture of a study is in two parts"
    )
    audit.add_argument("study", type=Path, help="folder that `past convert` wrote")
    audit.add_argument(
        "--model", type=Path, help="a model of this study: its parts, and what it was fitted to"
    )
    audit.add_argument("--work", type=Path, help="for image features; MODEL/../work by default")
    audit.set_defaults(run=_audit)
    _add_evaluate(commands)
    _add_benchmark(commands)
    evidence = commands.add_parser(
        "evidence", help="write the figures of `make evidence` into the repository's documents"
    )
    evidence.add_argument("found", type=Path, help="folder of deploy/evidence.sh")
    evidence.add_argument("root", type=Path, help="of the repository")
    evidence.set_defaults(run=_evidence)
    card = commands.add_parser("card", help="the model card of an evaluated model, as Markdown")
    card.add_argument("model", type=Path, help="the model/ folder of a training")
    card.add_argument("evaluation", type=Path, help="the evaluation/ folder of `past evaluate`")
    card.set_defaults(run=_card)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="the whole report of a model: baselines, intervals, tests, robustness"
    )
    evaluate.add_argument("model", type=Path, help="the model/ folder of a training")
    evaluate.add_argument(
        "studies", type=Path, nargs="+", metavar="STUDY",
        help="folders that `past convert` wrote: the one it was trained on, and others to test on",
    )  # fmt: skip
    evaluate.add_argument("--out", type=Path, help="MODEL/../evaluated by default")
    evaluate.add_argument("--parts", nargs="*", choices=["validation", "test", "external"])
    evaluate.add_argument("--baselines", nargs="*", help="all by default")
    evaluate.add_argument("--chapters", nargs="*", help="all by default")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.set_defaults(run=_evaluate)


def _add_benchmark(commands: Any) -> None:
    benchmark = commands.add_parser(
        "benchmark", help="HEST-Bench or HESCAPE on a folder that their owners publish"
    )
    which = benchmark.add_subparsers(required=True, metavar="NAME")
    hest = which.add_parser("hest", help="expression from the frozen encoder, on spots")
    hest.add_argument("root", type=Path, help="the benchmark's data folder")
    hest.add_argument("--datasets", nargs="*", help="all that are there by default")
    hescape = which.add_parser("hescape", help="retrieval between image and expression")
    hescape.add_argument("dataset", type=Path, help="a saved data set")
    hescape.add_argument("splits", type=Path, help="folder with train.csv, val.csv and test.csv")
    for parser, run in ((hest, _hest), (hescape, _hescape)):
        parser.add_argument("--encoder", default="efficientnet_lite0")
        parser.add_argument("--out", type=Path, default=Path("benchmark"))
        parser.set_defaults(run=run)


def _audit(given: argparse.Namespace) -> int:
    from ml.evaluation.audit_study import audit_study

    work = given.work or (given.model or given.study).parent / "work"
    print(json.dumps(plain(audit_study(given.study, given.model, work, ConsoleReport())), indent=1))
    return 0


def _evaluate(given: argparse.Namespace) -> int:
    from ml.evaluation.cards import model_card
    from ml.evaluation.evaluate_files import sections_for, sites_of
    from ml.run import run_spec

    out = given.out or given.model.parent / "evaluated"
    sections = sections_for(given.model, given.studies)
    params = {"parts": given.parts, "baselines": given.baselines, "chapters": given.chapters,
              "seed": given.seed}  # fmt: skip
    result = run_spec(
        {
            "kind": "evaluate",
            "params": params,
            "inputs": {
                "model": str(given.model), "sections": sections, "work": str(out / "work"),
                "sites": sites_of(given.studies),
            },
            "out": str(out),
        },
        ConsoleReport(),
    )  # fmt: skip
    for evaluation in result["evaluations"]:
        _note_look(given.model.parent / LOOKS, evaluation["part"], sections, out)
    card = model_card(given.model, out / "evaluation")
    (out / "CARD.md").write_text(card, encoding="utf-8")
    print(card)
    return 0


def _note_look(path: Path, part: str, sections: list[dict[str, Any]], out: Path) -> None:
    """Adds a line for a look at a part: whoever chooses by looking must be able to count looks."""
    slides = sorted(s["slide_code"] for s in sections if s["part"] == part)
    look = {"at": datetime.now(UTC).isoformat(), "part": part, "slides": slides, "out": str(out)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(look) + "\n")


def _hest(given: argparse.Namespace) -> int:
    from ml.evaluation.benchmarks import hest

    found = hest.run_hest(given.root, given.encoder, given.out, ConsoleReport(), given.datasets)
    print(hest.table(found, given.encoder))
    return 0


def _hescape(given: argparse.Namespace) -> int:
    from ml.evaluation.benchmarks import hescape

    report = ConsoleReport()
    found = hescape.run_hescape(given.dataset, given.splits, given.encoder, given.out, report)
    print(hescape.table(found, given.dataset.name, given.encoder))
    return 0


def _evidence(given: argparse.Namespace) -> int:
    from ml.evaluation.evidence import write_documents

    for name in write_documents(given.found, given.root):
        print(f"Left as it is, since it was not run: {name}")
    return 0


def _card(given: argparse.Namespace) -> int:
    from ml.evaluation.cards import model_card

    if not given.evaluation.is_dir():
        raise InputError(
            "card.no_evaluation", str(given.evaluation), "There is no such folder.",
            "Evaluate the model first: past evaluate MODEL STUDY.",
        )  # fmt: skip
    print(model_card(given.model, given.evaluation))
    return 0
