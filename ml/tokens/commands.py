"""`past vocab`: vocabularies from cell tables, or from Nicheformer's files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from ml.report import ConsoleReport

DEFAULT_TECHNOLOGY = "Xenium"


def add_commands(commands: Any) -> None:
    """Adds `vocab` to the subparsers of `past`; its commands set ``run(arguments) -> int``."""
    vocab = commands.add_parser("vocab", help="make a vocabulary: genes and their non-zero means")
    kinds = vocab.add_subparsers(required=True, metavar="COMMAND")
    build = kinds.add_parser("build", help="from cell tables")
    build.add_argument("out", type=Path, help="a new folder")
    build.add_argument(
        "tables",
        nargs="+",
        metavar="[TECHNOLOGY=]TABLE",
        help=f"cell tables; {DEFAULT_TECHNOLOGY} where no technology is named",
    )
    build.set_defaults(run=_build)
    nicheformer = kinds.add_parser("import-nicheformer", help="from Nicheformer's files")
    nicheformer.add_argument("model", type=Path, help="model.h5ad")
    nicheformer.add_argument(
        "means",
        nargs="+",
        metavar="[TECHNOLOGY=]MEANS",
        help=f"*_mean_script.npy; {DEFAULT_TECHNOLOGY} where no technology is named",
    )
    nicheformer.add_argument("out", type=Path, help="a new folder")
    nicheformer.add_argument(
        "--symbols",
        type=Path,
        nargs="*",
        default=[],
        metavar="TABLE",
        help="cell tables or h5ad that know the symbols of the Ensembl ids",
    )
    nicheformer.add_argument(
        "--whole-means",
        action="store_true",
        help="round the means to whole numbers, as the authors' notebooks do",
    )
    nicheformer.set_defaults(run=_import_nicheformer)


def named_path(text: str) -> tuple[str, Path]:
    """``TECHNOLOGY=PATH``, or a path alone for the default technology."""
    name, equals, path = text.partition("=")
    if equals and name and not Path(text).exists():
        return name, Path(path)
    return DEFAULT_TECHNOLOGY, Path(text)


def _build(arguments: argparse.Namespace) -> int:
    from ml.tokens.build import from_tables

    found = from_tables([named_path(text) for text in arguments.tables], ConsoleReport())
    return _write(found, arguments.out)


def _import_nicheformer(arguments: argparse.Namespace) -> int:
    from ml.tokens.build import from_nicheformer

    means = dict(named_path(text) for text in arguments.means)
    found = from_nicheformer(
        arguments.model, means, arguments.symbols, whole_means=arguments.whole_means
    )
    return _write(found, arguments.out)


def _write(found: Any, out: Path) -> int:
    found.save(out)
    measured = {name: int(np.isfinite(values).sum()) for name, values in found.means.items()}
    print(json.dumps({"out": str(out), "genes": len(found), "measured": measured}))
    return 0
