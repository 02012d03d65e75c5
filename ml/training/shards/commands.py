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
    fitted = build.add_argument_group("vocabulary", "fitted to all slides by default")
    fitted.add_argument("--vocabulary", type=Path, help="folder that `past vocab build` wrote")
    fitted.add_argument(
        "--fit-on-patients", nargs="+", metavar="PATIENT", help="whose slides it is fitted to"
    )
    fitted.add_argument("--fit-on-slides", nargs="+", metavar="SLIDE", help="likewise")
    build.add_argument("--slides", nargs="*", metavar="SLIDE", help="all measured ones by default")
    build.add_argument("--technology", default="", help="where a study does not state it")
    build.add_argument("--crops", choices=CROP_KINDS, help=f"{usual.crops} by default")
    build.add_argument("--jpeg-quality", type=int, help=f"{usual.jpeg_quality} by default")
    build.add_argument("--shard-cells", type=int, help=f"{usual.shard_cells} by default")
    build.set_defaults(run=_build)


def _build(given: argparse.Namespace) -> int:
    from ml.errors import InputError
    from ml.tokens.files import VocabularyFile
    from ml.training.shards.build import build_corpus
    from ml.training.shards.sources import chosen_sources, read_sources

    every = [s for study in given.studies for s in read_sources(study, given.technology)]
    fit_on = None
    if given.fit_on_patients or given.fit_on_slides:
        if given.vocabulary is not None:
            raise InputError(
                "corpus.two_vocabularies",
                "--vocabulary, --fit-on-…",
                "One asks for a vocabulary as it is, the other for one to be fitted.",
                "Give one of them.",
            )
        fit_on = chosen_sources(every, given.fit_on_patients, given.fit_on_slides)
    result = build_corpus(
        given.out,
        chosen_sources(every, None, given.slides or None),
        ConsoleReport(),
        vocabulary=None if given.vocabulary is None else VocabularyFile.load(given.vocabulary),
        fit_on=fit_on,
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
        "technologies": manifest.ids()["technology"],
        "vocabulary": {"sha256": manifest.vocabulary_sha256, "from": manifest.vocabulary_from},
        "settings": asdict(manifest.settings),
    }
    print(json.dumps(plain(shown), indent=1))
    return 0
