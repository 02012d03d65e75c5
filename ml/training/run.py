"""The train job: measured slides in, a model and its evaluation out."""

from __future__ import annotations

import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ml.errors import InputError
from ml.evaluation.audit import Unit, audit, audit_images, audit_statistics
from ml.evaluation.evaluate import evaluate
from ml.models import checkpoint
from ml.models.past import LossWeights, Member
from ml.training.abilities import fit_abilities
from ml.training.corpus import Corpus
from ml.training.engine import Optimisation
from ml.training.from_shards import check_lora, optimisation_of
from ml.training.intervals import error_by_distance
from ml.training.loop import Trainer
from ml.training.memory import ALIGNMENT, phases
from ml.training.metrics import Metrics
from ml.training.on_crops import phases_on_crops
from ml.training.prepare import (
    SectionInput,
    architecture_of,
    build,
    model_config,
    past_version,
    pictures_of,
    read_images,
    read_tables,
)
from ml.training.settings import AlignSettings, Settings
from ml.training.start import read_out, set_start
from ml.training.trust import fit_density

if TYPE_CHECKING:
    from ml.report import Report

DEFAULT_ENCODER = "efficientnet_lite0"


def settings_of(params: dict[str, Any]) -> Settings:
    """Training settings with the parameters' own over the defaults.

    Raises:
        InputError: ``train.epochs`` or ``train.setting``.
    """
    own = dict(params.get("settings") or {})
    nested: dict[str, Any] = {
        name: replace(default, **_known(own.pop(name, {}), type(default), f"settings.{name}"))
        for name, default in (
            ("losses", LossWeights()), ("align", AlignSettings()), ("optimisation", Optimisation()),
        )
    }  # fmt: skip
    _known(own, Settings, "settings", {*nested, "epochs", "seed"})
    epochs = params.get("epochs") or Settings.epochs
    if epochs < 1:
        raise InputError("train.epochs", "epochs", f"{epochs} is not positive.", "Give 1 or more.")
    return replace(
        Settings(),
        **own,
        epochs=int(epochs),
        seed=int(params.get("seed") or 0),
        **nested,
    )


def _known(
    own: dict[str, Any], of: type, where: str, elsewhere: set[str] | None = None
) -> dict[str, Any]:
    """The given settings, once each of them is one."""
    known = {field.name for field in fields(of)} - (elsewhere or set())
    for name in own:
        if name not in known:
            raise InputError(
                "train.setting",
                f"{where}.{name}",
                "There is no such setting.",
                f"Settings are: {', '.join(sorted(known))}.",
            )
    return own


def run(
    params: dict[str, Any], inputs: dict[str, Any], out: Path, report: Report
) -> dict[str, Any]:
    """Train a PAST model.

    Args:
        params: ``epochs``, ``seed``, ``preset`` (small, tiny), ``encoder``, ``max_genes``; for
            ablations ``architecture`` and ``settings`` (with ``losses`` and ``align``) override
            single values; ``{"align": {"epochs": 0}}`` leaves the alignment out.
        inputs: ``sections`` (see `SectionInput`), ``work`` (a folder that survives attempts).
        out: where ``model/`` and ``evaluation/`` are written.
        report: stages, progress, ``train_loss``, ``validation_pcc``, ``alignment_loss`` and
            ``validation_recall_at_10``.

    Returns:
        model, row_kind, spot_diameter_um, metrics, evaluations, config. Metrics hold those of each
        part (see `evaluate`), ``audit`` (``images``, see `audit_images`, and ``statistics``, see
        `audit_statistics`), ``ood`` (see `fit_density`, with `error_by_distance`), what
        `fit_abilities` says, and ``not_predictable``, genes that validation does not tell from
        chance.
    """
    began = time.perf_counter()
    given = [SectionInput.of(section) for section in inputs["sections"]]
    scope = audit(Unit(s.slide_code, s.patient, s.part, s.slide_sha256) for s in given)
    settings, work = settings_of(params), Path(inputs["work"])
    encoder = params.get("encoder") or DEFAULT_ENCODER

    architecture = architecture_of(params)
    check_lora(encoder, architecture)

    report.stage("Reading tables")
    tables = read_tables(given, **_only(params, "max_genes", "scale_over"))
    config = model_config(tables, encoder, architecture)
    config = replace(
        config, **_only(params, "per_slide", "scale_over"),
        provenance={
            **config.provenance,
            "past": past_version(),
            "torch": torch.__version__,
            "seed": settings.seed,
            "scope": scope,
            "sections": [
                {
                    "slide_code": s.slide_code, "patient": s.patient, "part": s.part,
                    "slide_sha256": s.slide_sha256, "table_sha256": s.table_sha256,
                }
                for s in given
            ],
        },
    )  # fmt: skip
    report.log(f"{len(tables.symbols)} genes, {len(given)} sections ({scope}).")

    report.stage("Audit of the images")
    audited: dict[str, Any] = {"images": audit_images(pictures_of(tables.sections), scope)}

    report.stage("Image features")
    sections = read_images(tables, config, work, report)

    report.stage("Training")
    start = build(config, [s for s in sections if s.part == "train"], params.get("penalty"))
    held_out = {
        part: Corpus([s for s in sections if s.part == part], config)
        for part in ("validation", "test")
        if any(s.part == part and s.totals.any() for s in sections)
    }

    def begin(member: Member) -> None:
        set_start(member, start.train, start.loadings, start.ridge)

    if config.features is None:
        steps = phases_on_crops(start.model, tables, settings, scope, work, report)
        report.stage("Training")
    else:
        steps = phases(start.model, start.train, held_out.get("validation"), settings, report)
    trainer = Trainer(
        start.model,
        steps,
        optimisation_of(encoder, settings.optimisation),
        begin,
        work / "checkpoint",
        report,
        identity=str(config.provenance),
        seed=settings.seed,
        metrics=Metrics(work),
    )
    trainer.run(report.progress)
    if not (settings.losses.expression or settings.losses.counts):
        read_out(start.model, start.train, start.loadings)

    audited["statistics"] = audit_statistics(start.model, start.train)

    report.stage("Trust and cell types")
    ood = fit_density(start.model, start.train, held_out)
    if "test" in held_out:
        ood["error"] = error_by_distance(start.model, held_out["test"])
    known = fit_abilities(
        start.model, start.train, held_out, tables.sections, report, settings.seed
    )
    report.stage("Evaluation")
    checkpoint.save(start.model, out / "model")
    metrics = evaluate(start.model, start.train, held_out, out / "evaluation", report)
    # The test part has no say in which genes are called predictable.
    unpredictable = metrics.get("validation", {}).pop("not_predictable", [])
    totals = {
        "n_genes": len(tables.symbols),
        "n_rows": len(start.train.measured),
        "scope": scope,
        "audit": audited,
        "seconds": time.perf_counter() - began,
        **_training_totals(trainer),
        **known,
    }
    return {
        "model": "model",
        "row_kind": config.row_kind,
        "spot_diameter_um": config.spot_diameter_um,
        "metrics": {**metrics, **totals, "ood": ood, "not_predictable": unpredictable},
        "evaluations": [
            {"part": part, "path": "evaluation", "metrics": metrics[part]} for part in held_out
        ],
        "config": {**config.as_dict(), "settings": asdict(settings)},
    }


def _training_totals(trainer: Trainer) -> dict[str, float]:
    """Epochs, speed and time of the phase that trains the image side, and of the alignment."""
    history, seconds = trainer.history, trainer.seconds
    first = next((name for name in seconds if name != ALIGNMENT), "")
    return {
        "epochs": sum(r["phase"] == first and r["epoch"] > 0 for r in history),
        "cells_per_s": trainer.rows_seen.get(first, 0) / max(seconds.get(first, 0.0), 1e-9),
        "alignment_epochs": sum(r["phase"] == ALIGNMENT for r in history),
        "alignment_seconds": seconds.get(ALIGNMENT, 0.0),
    }


def _only(params: dict[str, Any], *names: str) -> dict[str, Any]:
    """The named parameters that were given."""
    return {name: params[name] for name in names if params.get(name) is not None}
