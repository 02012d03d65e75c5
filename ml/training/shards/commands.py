"""`past corpus build`, `past corpus verify` and `past corpus show`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ml.report import ConsoleReport, plain


def add_commands(commands: Any) -> None:
    """Adds `past corpus …`; each command sets ``run(arguments) -> int``."""
    corpus = commands.add_parser("corpus", help="shards for training, from converted studies")
    verbs = corpus.add_subparsers(required=True, metavar="VERB")
    _add_build(verbs)
    for name, run, text in (
        ("verify", _verify, "read all files and compare them with the manifest"),
        ("show", _show, "slides, cells and settings of a corpus"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("place", help="the corpus: a folder, or an fsspec URL such as s3://…")
        verb.add_argument("--cache", type=Path, help="folder for copies of a remote corpus")
        verb.set_defaults(run=run)


def _add_build(verbs: Any) -> None:
    from ml.training.shards.layout import CROP_KINDS, Settings

    usual = Settings()
    build = verbs.add_parser(
        "build", help="write a corpus, add studies to it, or continue a build that was interrupted"
    )
    build.add_argument("out", type=Path, help="folder of the corpus; made where there is none")
    build.add_argument(
        "studies", type=Path, nargs="+", metavar="STUDY", help="folders that `past convert` wrote"
    )
    build.add_argument("--vocabulary", type=Path, help="JSON; fitted to the studies by default")
    build.add_argument("--slides", nargs="*", metavar="SLIDE", help="all measured ones by default")
    build.add_argument("--technology", default="", help="where a study does not state it")
    build.add_argument("--crops", choices=CROP_KINDS, help=f"{usual.crops} by default")
    build.add_argument("--jpeg-quality", type=int, help=f"{usual.jpeg_quality} by default")
    build.add_argument("--shard-cells", type=int, help=f"{usual.shard_cells} by default")
    build.set_defaults(run=_build)


def _build(given: argparse.Namespace) -> int:
    from ml.errors import InputError
    from ml.training.shards.build import build_corpus
    from ml.training.shards.sources import read_sources

    sources = [s for study in given.studies for s in read_sources(study, given.technology)]
    if given.slides:
        unknown = sorted(set(given.slides) - {source.slide for source in sources})
        if unknown:
            raise InputError(
                "study.unknown_slide",
                "--slides",
                f"There is no such measured slide: {', '.join(unknown)}.",
                f"Slides are: {', '.join(source.slide for source in sources)}.",
            )
        sources = [source for source in sources if source.slide in given.slides]
    result = build_corpus(
        given.out,
        sources,
        ConsoleReport(),
        vocabulary=None if given.vocabulary is None else _vocabulary(given.vocabulary),
        settings=_settings(given),
    )
    print(json.dumps({"out": str(given.out), **result}))
    return 0


def _settings(given: argparse.Namespace) -> Any:
    """The settings asked for; None where none is, so that a corpus keeps its own."""
    from ml.errors import InputError
    from ml.training.shards.layout import Settings

    names = ("crops", "jpeg_quality", "shard_cells")
    asked = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    if not 1 <= asked.get("jpeg_quality", 1) <= 100 or asked.get("shard_cells", 1) < 1:
        raise InputError(
            "corpus.settings",
            "--jpeg-quality, --shard-cells",
            "The quality is 1 to 100; a shard holds at least one cell.",
            "Leave these options out for the usual values.",
        )
    return Settings(**asked) if asked else None


def _vocabulary(path: Path) -> Any:
    from ml.errors import InputError
    from ml.tokens.vocabulary import Vocabulary

    try:
        return Vocabulary.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "vocabulary.unreadable",
            str(path),
            "This is not a vocabulary file.",
            "Give the JSON file that `past vocab` wrote, or leave the option out.",
        ) from error


def _opened(given: argparse.Namespace) -> Any:
    from ml.errors import InputError
    from ml.training.shards.reader import Corpus

    if "://" in given.place.removeprefix("file://") and given.cache is None:
        raise InputError(
            "corpus.no_cache",
            given.place,
            "A remote corpus is read through local copies.",
            "Name a folder for them: --cache FOLDER.",
        )
    return Corpus(given.place, cache=given.cache)


def _verify(given: argparse.Namespace) -> int:
    corpus = _opened(given)
    corpus.verify(ConsoleReport())
    print(f"{given.place}: {len(corpus.manifest.shards)} shards are what was written.")
    return 0


def _show(given: argparse.Namespace) -> int:
    from dataclasses import asdict

    corpus = _opened(given)
    manifest = corpus.manifest
    tokens = sum(shard.tokens for shard in manifest.shards)
    size = {
        suffix: sum(shard.files[suffix][1] for shard in manifest.shards if suffix in shard.files)
        for suffix in (".safetensors", ".crops")
    }
    shown = {
        "cells": len(corpus),
        "left_out": sum(slide.left_out for slide in manifest.slides),
        "slides": len(manifest.slides),
        "patients": len(manifest.ids()["patient"]),
        "shards": len(manifest.shards),
        "tokens_per_cell": tokens / max(len(corpus), 1),
        "bytes_per_cell": size[".safetensors"] / max(len(corpus), 1),
        "crop_bytes_per_cell": size[".crops"] / max(len(corpus), 1),
        "settings": asdict(manifest.settings),
    }
    print(json.dumps(plain(shown), indent=1))
    return 0
