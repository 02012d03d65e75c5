"""The evaluation job, and reads of what it made: scores, rows to draw, looks at the test part."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from django.db.models import QuerySet
from django.http import Http404
from django.urls import reverse

from backend.accounts.services import record
from backend.jobs.kinds import Spec
from backend.jobs.models import Artifact, Job
from backend.jobs.services import local, store_artifact, work_folder
from backend.registry.content import EvaluateParams, EvaluateResult, EvaluationContent
from backend.registry.datasets import section
from backend.registry.models import Evaluation, ModelVersion, Part
from backend.registry.predictions import model_of
from backend.studies.models import Study
from ml.errors import InputError

REPORT = "report.json"


def check_can_evaluate(model: ModelVersion) -> None:
    """Raises InputError for a model without a held-out part, or whose tables are gone."""
    tables = list(model.dataset.tables.values_list("part", "table", "table__slide__code"))
    if not any(part == Part.TEST for part, *_ in tables):
        raise InputError(
            "evaluate.nothing_held_out",
            model.name,
            "It was trained without a held-out part.",
            "Train a version that holds out at least one patient.",
        )
    if any(table is None for _, table, _ in tables):
        raise InputError(
            "evaluate.table_gone",
            model.name,
            "Cell tables that it was trained or tested on have been replaced or deleted since.",
            "Train a version on the tables that there are now.",
        )


def prepare_evaluation(job: Job) -> Spec:
    params = EvaluateParams.model_validate(job.parameters)
    study = Study.objects.get(pk=job.study_id)
    model = model_of(study, params.model)
    check_can_evaluate(model)
    tables = model.dataset.tables.select_related(
        "table__artifact", "table__slide__artifact", "patient"
    )
    sections = [section(row.table, row.patient.code, row.part) for row in tables.order_by("pk")]
    sites = {row.patient.code: row.patient.site for row in tables if row.patient.site}
    return Spec(
        params=params.model_dump(mode="json", exclude={"model"}),
        inputs={
            "model": str(local(model.artifact)),
            "sections": sections,
            "sites": sites,
            "work": str(work_folder(job)),
        },
    )


def add_evaluations(
    job: Job, model: ModelVersion, evaluations: list[EvaluationContent], out: Path, **more: Any
) -> None:
    """Keep what a job scored of a model on its own dataset, with `more` among the metrics."""
    for evaluation in evaluations:
        Evaluation.objects.create(
            model_version=model,
            dataset=model.dataset,
            part=evaluation.part,
            artifact=store_artifact(
                job=job,
                path=out / evaluation.path,
                kind=Artifact.Kind.EVALUATION,
                inputs=[model.artifact, model.dataset.artifact],
            ),
            metrics={**evaluation.metrics, **more},
            job=job,
            created_by=job.created_by,
        )


def commit_evaluation(job: Job, result: dict[str, Any], out: Path) -> dict[str, Any]:
    content = EvaluateResult.model_validate(result)
    params = EvaluateParams.model_validate(job.parameters)
    model = model_of(Study.objects.get(pk=job.study_id), params.model)
    add_evaluations(job, model, content.evaluations, out, audit=content.audit)
    record(
        actor=job.created_by,
        action="model.evaluate",
        study=model.study,
        subject=model,
        detail={"version": model.version, "job": job.pk},
    )
    return {
        "model": model.pk,
        "seconds": content.seconds,
        "peak_memory_gib": content.peak_memory_gib,
        "links": [
            {"label": f"Evaluation of {model.name}", "url": reverse("evaluation", args=[model.pk])}
        ],
    }


def latest(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """The newest evaluation of each part, in the order given (newest first)."""
    found: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        found.setdefault(evaluation.part, evaluation)
    return sorted(found.values(), key=lambda one: one.part != Part.TEST)


def best_baseline(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """The best of the baselines that see no more than the model, with its title."""
    fair = [
        {"title": name.replace("_", " "), **of}
        for name, of in metrics.get("baselines", {}).items()
        if of.get("fair", True) and of.get("pcc_median") is not None
    ]
    return max(fair, key=lambda of: of["pcc_median"], default=None)


def newest_test(models: Iterable[ModelVersion]) -> dict[int, Evaluation]:
    """Model id → its newest scores on the held-out part of its own dataset."""
    found: dict[int, Evaluation] = {}
    rows = Evaluation.objects.filter(
        model_version__in=[model.pk for model in models], part=Part.TEST
    ).select_related("model_version", "dataset")
    for evaluation in rows:
        if evaluation.dataset_id == evaluation.model_version.dataset_id:
            found.setdefault(evaluation.model_version_id, evaluation)
    return found


def test_slides(model: ModelVersion) -> frozenset[str]:
    """Contents of the held-out tables: two versions are comparable where these are the same."""
    rows = model.dataset.tables.filter(part=Part.TEST)
    return frozenset(rows.values_list("table_sha256", flat=True))


def looks(model: ModelVersion) -> QuerySet[Evaluation]:
    """Every time that somebody scored something on (some of) the model's held-out tables.

    Trainings score once at their end; each later report is a look of its own. Who picks among
    versions by these scores has used the held-out part to choose.
    """
    return (
        Evaluation.objects.filter(
            part=Part.TEST,
            dataset__tables__part=Part.TEST,
            dataset__tables__table_sha256__in=test_slides(model),
        )
        .distinct()
        .select_related("model_version", "created_by", "job")
    )


def drawn_gene(evaluation: Evaluation, symbol: str) -> dict[str, Any]:
    """Rows of an evaluation with a gene's measured and predicted values, slide by slide.

    Returns:
        gene, unit, slides: code, patient, of (rows that there are), mpp, x, y (level-0 px),
        measured, predicted (None where not a number).

    Raises Http404 where the evaluation has no rows to draw, or the gene is none of its genes.
    """
    folder = local(evaluation.artifact)
    rows = folder / "maps" / evaluation.part
    if not rows.is_dir():
        raise Http404(
            "This evaluation kept no rows: it is the short one that a training ends with."
        )
    symbols = json.loads((rows / "genes.json").read_text())
    if symbol not in symbols:
        raise Http404(f"There is no gene {symbol} in this evaluation.")
    place = symbols.index(symbol)
    values = {
        name: np.load(rows / f"{name}.npy", mmap_mode="r")[place]
        for name in ("measured", "predicted")
    }
    xy = np.load(rows / "xy.npy", mmap_mode="r")
    slides = []
    for slide in json.loads((rows / "slides.json").read_text()):
        own = slice(slide["first"], slide["stop"])
        slides.append(
            {
                "code": slide["slide"], "patient": slide["patient"], "of": slide["of"],
                "mpp": slide["mpp"],
                "x": np.round(xy[own, 0], 1).tolist(), "y": np.round(xy[own, 1], 1).tolist(),
                **{name: _numbers(of[own]) for name, of in values.items()},
            }
        )  # fmt: skip
    return {"gene": symbol, "unit": "log1p counts per 10,000", "slides": slides}


def _numbers(values: np.ndarray) -> list[float | None]:
    return [round(float(v), 3) if np.isfinite(v) else None for v in values]
