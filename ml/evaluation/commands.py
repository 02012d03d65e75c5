"""`past audit`: whether the parts of a study leak into each other, and into a model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ml.report import ConsoleReport, plain


def add_commands(commands: Any) -> None:
    """Adds `audit` to the subparsers of `past`."""
    audit = commands.add_parser(
        "audit", help="prove that no patient, section or picture of a study is in two parts"
    )
    audit.add_argument("study", type=Path, help="folder that `past convert` wrote")
    audit.add_argument(
        "--model", type=Path, help="a model of this study: its parts, and what it was fitted to"
    )
    audit.add_argument("--work", type=Path, help="for image features; MODEL/../work by default")
    audit.set_defaults(run=_audit)


def _audit(given: argparse.Namespace) -> int:
    from ml.evaluation.audit_study import audit_study

    work = given.work or (given.model or given.study).parent / "work"
    print(json.dumps(plain(audit_study(given.study, given.model, work, ConsoleReport())), indent=1))
    return 0
