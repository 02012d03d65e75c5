"""Reads of model versions, their datasets, evaluations and promotions."""

from __future__ import annotations

import csv
import math
from collections import Counter
from typing import Any

from django.db.models import F, Prefetch, QuerySet
from django.http import Http404

from backend.accounts.models import User
from backend.accounts.permissions import Action
from backend.jobs.models import Job
from backend.jobs.services import local
from backend.registry.datasets import measured_tables
from backend.registry.models import (
    Dataset,
    DatasetTable,
    Evaluation,
    Exposure,
    ModelVersion,
    Part,
    Promotion,
)
from backend.studies.models import Study
from backend.studies.selectors import require, role_in

PER_GENE = "per_gene.csv"


def models_of(study: Study) -> QuerySet[ModelVersion]:
    """A study's model versions, newest first, with dataset and author at hand."""
    models = study.model_versions.select_related("dataset", "created_by", "study", "artifact")
    return models.defer("config")


def model_for(user: User, model_id: int, action: Action = Action.MODEL_VIEW) -> ModelVersion:
    """The model version with all its page shows.

    Raises Http404 when `user` may not see it, PermissionDenied when their role lacks `action`.
    """
    model = (
        ModelVersion.objects.visible_to(user)
        .annotate(role=role_in(user, "study"))
        .select_related(
            "dataset__artifact", "dataset__study", "created_by", "study", "artifact", "job"
        )
        .prefetch_related(
            Prefetch("evaluations", Evaluation.objects.select_related("artifact", "dataset")),
            Prefetch("promotions", Promotion.objects.select_related("actor", "replaced")),
        )
        .filter(pk=model_id)
        .first()
    )
    if model is None:
        raise Http404("No such model version.")
    require(model.role, action)
    return model


def promoted_model(study: Study) -> ModelVersion | None:
    """The model version that the study uses; of several row kinds the newest."""
    promoted = study.model_versions.filter(status=ModelVersion.Status.PROMOTED)
    return promoted.select_related("dataset", "artifact").order_by("-version").first()


def evaluation_of(model: ModelVersion, part: Part) -> Evaluation | None:
    """The model's newest scores on that part of its own dataset."""
    return (
        model.evaluations.filter(part=part, dataset=model.dataset_id)
        .select_related("artifact", "dataset")
        .first()
    )


def best_genes(model: ModelVersion, n: int = 5) -> list[dict[str, Any]]:
    """Scores of the genes that the model predicts best on its held-out part, best first.

    Genes that it calls not predictable are not among them.
    """
    evaluation = evaluation_of(model, Part.TEST)
    if evaluation is None:
        return []
    refused = set(model.metrics.get("not_predictable", ()))
    scores = [
        score
        for score in gene_scores(evaluation)
        if score["pcc"] is not None and score["gene"] not in refused
    ]
    return sorted(scores, key=lambda score: (-score["pcc"], score["gene"]))[:n]


def not_predictable(model: ModelVersion) -> dict[str, dict[str, float | None]]:
    """Genes that the model cannot tell from H&E, with Pearson and 95 % interval in validation.

    `pcc`, `low` and `high` are None where the scores lack them.
    """
    symbols = model.metrics.get("not_predictable", ())
    evaluation = evaluation_of(model, Part.VALIDATION) if symbols else None
    scores = {s["gene"]: s for s in gene_scores(evaluation)} if evaluation else {}
    return {
        symbol: {
            "pcc": scores.get(symbol, {}).get("pcc"),
            "low": scores.get(symbol, {}).get("pcc_low"),
            "high": scores.get(symbol, {}).get("pcc_high"),
        }
        for symbol in symbols
    }


def held_out_label(dataset: Dataset, part: str) -> str:
    """What the scores of a part were measured on, in words that go beside them."""
    unit = "section of the same patient" if dataset.same_patient else "patients"
    return {
        Part.TEST: f"held-out {unit}",
        Part.VALIDATION: f"validation {unit} (used to choose when to stop)",
        Part.TRAIN: f"training {unit} (seen by the model)",
    }[Part(part)]


def dataset_document(dataset: Dataset) -> dict[str, Any]:
    """A dataset with its tables: slide and patient codes, part and hashes."""
    tables: QuerySet[DatasetTable] = dataset.tables.order_by("part", "pk")
    return {
        "id": dataset.pk,
        "version": dataset.version,
        "row_kind": dataset.row_kind,
        "same_patient": dataset.same_patient,
        "split": dataset.split,
        "split_label": dataset.get_split_display() if dataset.split else "",
        "created_at": dataset.created_at,
        "tables": list(
            tables.values(
                "part",
                "table_sha256",
                "slide_sha256",
                slide=F("table__slide__code"),
                slide_id=F("table__slide_id"),
                patient_code=F("patient__code"),
            )
        ),
    }


def exposure_counts(model: ModelVersion) -> dict[str, int]:
    """Patients of the model's study that it has seen, per part."""
    seen = Exposure.objects.filter(
        model_artifact=model.artifact_id, patient__study=model.study_id
    ).values_list("part", flat=True)
    counts = Counter(seen)
    return {str(part): counts[part] for part in Part}


def exposed_patients(model: ModelVersion) -> list[dict[str, str]]:
    """The patients that the model has seen, with the part, by code."""
    return list(
        Exposure.objects.filter(model_artifact=model.artifact_id, patient__study=model.study_id)
        .order_by("patient__code", "part")
        .values("part", patient_code=F("patient__code"))
    )


def gene_scores(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One dict per gene, best first: gene, pcc, scc, ceiling and the baselines' pcc.

    An undefined score is None. The evaluation's file holds all parts.
    """
    with (local(evaluation.artifact) / PER_GENE).open(newline="") as file:
        return [
            {name: value if name == "gene" else _number(value) for name, value in row.items()}
            for row in csv.DictReader(file)
            if row.pop("part") == evaluation.part
        ]


def _number(text: str) -> float | None:
    value = float(text or "nan")
    return value if math.isfinite(value) else None


def trainable(study: Study) -> list[dict[str, Any]]:
    """The measured slides one can train on, by code."""
    return [
        {
            "slide": table.code,
            "slide_id": table.slide_id,
            "patient": table.patient,
            "row_kind": table.row_kind,
            "n_rows": table.n_rows,
            "n_genes": table.n_genes,
            "planned": table.planned,
        }
        for table in measured_tables(study)
    ]


def training_estimate(study: Study) -> dict[str, Any] | None:
    """How long the study's last training took, and on how many rows; None before the first."""
    last = (
        Job.objects.filter(study=study, kind="train", status=Job.Status.SUCCEEDED)
        .exclude(started_at=None)
        .order_by("-finished_at")
        .first()
    )
    if last is None:
        return None
    rows = DatasetTable.objects.filter(dataset=last.result.get("dataset")).values_list(
        "table__n_rows", flat=True
    )
    return {
        "seconds": (last.finished_at - last.started_at).total_seconds(),
        "rows": sum(n or 0 for n in rows),
        "job": last.pk,
    }


def evaluation_for(user: User, model_id: int, evaluation_id: int) -> Evaluation:
    """One evaluation of a model version that `user` may see, else Http404."""
    model = model_for(user, model_id)
    for evaluation in model.evaluations.all():
        if evaluation.pk == evaluation_id:
            return evaluation
    raise Http404("No such evaluation.")
