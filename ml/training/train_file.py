"""A training as a config file describes it, on whatever processes it was started in."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml.errors import InputError
from ml.io.store import content_hash
from ml.io.study.converted import check_slides, converted_study, mpp_of
from ml.models import checkpoint
from ml.report import ConsoleReport, Report, SilentReport, plain
from ml.run import run_spec
from ml.training.config_file import RunConfig, read_config
from ml.training.distributed import Ranks
from ml.training.from_shards import (
    ShardTraining,
    check_lora,
    fit_density,
    held_out,
    train_from_shards,
)
from ml.training.held_out import Scores, write_per_gene
from ml.training.metrics import Metrics
from ml.training.parts import parts_of
from ml.training.prepare import architecture_of, past_version
from ml.training.records import RunRecord
from ml.training.settings import Settings
from ml.training.shards.layout import Manifest, text_hash
from ml.training.shards.reader import Corpus


def train_file(path: Path) -> dict[str, Any] | None:
    """Train as a config file says; torchrun's processes train together.

    Writes ``model/``, ``evaluation/``, ``run.json`` and, while it runs, ``metrics.jsonl`` and
    ``checkpoint/`` to the config's folder.

    Returns:
        the model's folder and the metrics of each part; None in all processes but the first.

    Raises:
        InputError: those of `read_config`, and whatever is wrong with the data.
    """
    config = read_config(path)
    ranks = Ranks.join()
    report: Report = ConsoleReport() if ranks.first else SilentReport()
    if config.data.study is not None:
        result = _on_study(config, ranks, report)
    else:
        result = _on_corpus(config, ranks, report)
    ranks.leave()
    return result if ranks.first else None


def _on_corpus(config: RunConfig, ranks: Ranks, report: Report) -> dict[str, Any]:
    job = shard_training(config)
    manifest, settings = job.corpus.manifest, job.settings
    hashed = text_hash(manifest.as_json())
    data: dict[str, Any] = {
        "corpus": job.corpus.place,
        "manifest_sha256": hashed,
        "vocabulary_sha256": manifest.vocabulary_sha256,
        "vocabulary_from": manifest.vocabulary_from,
        "parts": job.provenance["parts"],
        "scope": job.parts.scope,
    }
    record = RunRecord(config, data, ranks.size)
    if ranks.first:
        record.write()
    said = [f"{len(slides)} of {part}" for part, slides in job.parts.part_slides().items()]
    report.log(
        f"Slides: {', '.join(said)} ({job.parts.scope}); "
        f"{ranks.size} process{'es' if ranks.size > 1 else ''}."
    )
    trained = train_from_shards(
        job, config.out / "checkpoint", report, ranks, Metrics(config.out, ranks),
        identity=hashed,
    )  # fmt: skip
    report.stage("Evaluation")
    job = trained.job
    scores = {
        part: held_out(job, trained.to_model, part, ranks, None).evaluate(trained.model, report)
        for part in job.parts.held_out
    }
    density = fit_density(job, trained, ranks)
    metrics = {
        **{part: found.metrics() for part, found in scores.items()},
        "ood": density,
        "n_cells": trained.moments.cells,
        "programmes_from": trained.moments.programme_cells,
        "epochs": len(trained.trainer.history),
        "seconds": sum(trained.trainer.seconds.values()),
        "cells_per_s": ranks.size
        * sum(trained.trainer.rows_seen.values())
        / max(sum(trained.trainer.seconds.values()), 1e-9),
    }
    if ranks.first:
        _write(config.out, job, trained.model, scores, metrics)
        encoder = trained.model.config.provenance["encoder"]
        record.end(encoder=encoder, metrics=metrics, history=trained.trainer.history)
        report.log(f"The model is in {config.out / 'model'}; seed {settings.seed}.")
    ranks.barrier()
    return {"model": str(config.out / "model"), **metrics}


def shard_training(config: RunConfig) -> ShardTraining:
    """What a config on a corpus trains.

    Raises:
        InputError: ``corpus.…``, ``split.…``, ``train.…``.
    """
    data = config.data
    assert data.corpus is not None
    corpus = Corpus(data.corpus, cache=data.cache)
    if corpus.manifest.settings.crops == "none":
        raise InputError(
            "corpus.no_crops",
            corpus.place,
            "The corpus was built without crops, which the image encoder is trained on.",
            "Build one with --crops jpeg.",
        )
    parts = parts_of(corpus.manifest, data, corpus.place)
    sizes = dict(config.architecture)
    for name in ("neighbours", "radius_um"):
        # What is not asked for is as the corpus has it.
        sizes.setdefault(name, getattr(corpus.manifest.settings, name))
    architecture = architecture_of({"preset": config.model.preset, "architecture": sizes})
    check_lora(config.model.encoder, architecture, config.model.frozen_blocks)
    settings = config.settings
    return ShardTraining(
        corpus=corpus,
        parts=parts,
        encoder=config.model.encoder,
        weights=config.model.weights,
        architecture=architecture,
        settings=settings,
        workers=data.workers,
        by_length=data.by_length,
        validation_cells=data.validation_cells,
        frozen_blocks=config.model.frozen_blocks,
        checkpoint_gradients=config.model.checkpoint_gradients,
        provenance=provenance(corpus.manifest, parts.part_of(), settings, parts.scope),
    )


def provenance(
    manifest: Manifest, part_of: dict[int, str], settings: Settings, scope: str
) -> dict[str, Any]:
    """What a model's config says of how it came to be."""
    named: dict[str, list[str]] = {}
    for number, part in part_of.items():
        slide = manifest.slides[number]
        named.setdefault(part, []).append(f"{slide.study}/{slide.slide}")
    return {
        "past": past_version(),
        "seed": settings.seed,
        "scope": scope,
        "manifest_sha256": text_hash(manifest.as_json()),
        "vocabulary_sha256": manifest.vocabulary_sha256,
        "parts": named,
    }


def _write(
    out: Path, job: ShardTraining, model: Any, scores: dict[str, Scores], metrics: dict[str, Any]
) -> None:
    """The model with the vocabulary of all its technologies, and its evaluation."""
    vocabulary = out / "model" / "vocabulary"
    shutil.rmtree(vocabulary, ignore_errors=True)
    job.corpus.vocabulary.save(vocabulary)
    checkpoint.save(model, out / "model")
    write_per_gene(out / "evaluation/per_gene.csv", job.corpus.vocabulary.symbols, scores)
    checkpoint.write_json(out / "evaluation/metrics.json", plain(metrics))


def _on_study(config: RunConfig, ranks: Ranks, report: Report) -> dict[str, Any]:
    """The same computation as a training job's, on a study that `past convert` wrote."""
    if ranks.size > 1:
        raise InputError(
            "train.study_ranks",
            f"{config.path}, data.study",
            "A study is trained on in the memory of one process.",
            "Start it without torchrun, or build a corpus: past corpus build.",
        )
    sections = study_sections(config)
    data = {"sections": sections}
    record = RunRecord(config, data, ranks.size)
    record.write()
    result = run_spec(
        {
            "kind": "train",
            "params": study_params(config),
            "inputs": {
                "sections": sections, "parent": None, "work": str(config.out / "work"),
            },
            "out": str(config.out),
        },
        report,
    )  # fmt: skip
    record.end(metrics=result["metrics"])
    return {"model": str(config.out / "model"), **result["metrics"]}


def study_params(config: RunConfig) -> dict[str, Any]:
    """The config's settings as the parameters of a training job."""
    settings = asdict(config.settings)
    simple = {k: v for k, v in settings.items() if k not in {"epochs", "seed"}}
    return {
        "epochs": config.settings.epochs, "seed": config.settings.seed,
        "encoder": config.model.encoder, "preset": config.model.preset,
        "max_genes": config.data.max_genes, "architecture": config.architecture,
        "settings": simple,
    }  # fmt: skip


def _by_site(
    site: str,
    study: dict[str, Any],
    slides: list[dict[str, Any]],
    parts: dict[str, str],
    where: str,
) -> dict[str, str]:
    """Parts with one site held out: what else was to be tested is trained on instead.

    Raises:
        InputError: ``split.unknown_site``.
    """
    sites = {p["code"]: p.get("site") for p in study["patients"]}
    of = {slide["code"]: sites.get(slide["patient"]) for slide in slides}
    if site not in of.values():
        there = sorted({name for name in of.values() if name})
        raise InputError(
            "split.unknown_site",
            f"{where}, data.test_site",
            f"No measured slide is from a site {site}.",
            f"Sites of measured slides are: {', '.join(there) or 'not recorded'}.",
        )
    rest = {code: "train" if part == "test" else part for code, part in parts.items()}
    return {code: "test" if own == site else rest.get(code, "train") for code, own in of.items()}


def study_sections(config: RunConfig) -> list[dict[str, Any]]:
    """The measured slides of the config's study, with their parts, as the training job has them.

    Parts are the config's, or those that the study planned for its patients where it names none.

    Raises:
        InputError: ``study.not_converted``, ``study.unknown_slide``, ``slide.no_mpp``.
    """
    data = config.data
    assert data.study is not None
    study = converted_study(data.study)
    slides = [
        slide
        for slide in study["slides"]
        if slide["cells"]
        and slide["cells"]["n_genes"]
        and data.row_kind in (None, slide["cells"].get("row_kind"))
    ]
    named = [*data.validation, *data.test, *(data.slides or ())]
    check_slides(slides, named, f"{config.path}, data")
    if data.slides is not None:
        slides = [slide for slide in slides if slide["code"] in data.slides]
    parts = {**dict.fromkeys(data.validation, "validation"), **dict.fromkeys(data.test, "test")}
    if not parts:
        planned = {p["code"]: p["part"] for p in study["patients"] if p.get("part")}
        slides = [slide for slide in slides if not planned or slide["patient"] in planned]
        parts = {slide["code"]: planned.get(slide["patient"], "train") for slide in slides}
    if data.test_site:
        parts = _by_site(data.test_site, study, slides, parts, str(config.path))
    return [
        {
            "slide": str(data.study / slide["file"]),
            "table": str(data.study / slide["cells"]["path"]),
            "slide_code": slide["code"],
            "patient": slide["patient"],
            "part": parts.get(slide["code"], "train"),
            "mpp": mpp_of(slide),
            "slide_sha256": content_hash(data.study / slide["file"])[0],
            "table_sha256": content_hash(data.study / slide["cells"]["path"])[0],
        }
        for slide in slides
    ]
