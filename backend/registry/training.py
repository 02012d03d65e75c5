"""The training job: from measured slides to a registered model version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.db.models import Max
from django.urls import reverse

from backend.accounts.services import record
from backend.jobs.kinds import Spec
from backend.jobs.models import Artifact, Job
from backend.jobs.services import store_artifact, work_folder
from backend.registry.content import TrainParams, TrainResult
from backend.registry.datasets import freeze_dataset, section
from backend.registry.evaluations import add_evaluations
from backend.registry.models import Dataset, Exposure, ModelVersion
from backend.registry.promotion import switch_to
from backend.studies.models import Study
from ml.io.celltable import panel_hash

_CHOICE_OF_SLIDES = {"row_kind", "validation", "test"}


def prepare_training(job: Job) -> Spec:
    """Freezes the dataset and notes it in the job's result, for commit and for the job page."""
    params = TrainParams.model_validate(job.parameters)
    dataset, tables = freeze_dataset(job=job, params=params)
    Job.objects.filter(pk=job.pk).update(
        result={"dataset": dataset.pk, "dataset_version": dataset.version}
    )
    sections = [section(table, table.patient, table.part) for table in tables]
    return Spec(
        params=params.model_dump(mode="json", exclude=_CHOICE_OF_SLIDES),
        inputs={"sections": sections, "parent": None, "work": str(work_folder(job))},
    )


def commit_training(job: Job, result: dict[str, Any], out: Path) -> dict[str, Any]:
    content = TrainResult.model_validate(result)
    study = Study.objects.select_for_update().get(pk=job.study_id)
    dataset = study.datasets.select_related("artifact").get(pk=job.result["dataset"])
    artifact = store_artifact(
        job=job, path=out / content.model, kind=Artifact.Kind.MODEL, inputs=[dataset.artifact]
    )
    model = ModelVersion.objects.create(
        study=study,
        version=(study.model_versions.aggregate(last=Max("version"))["last"] or 0) + 1,
        artifact=artifact,
        dataset=dataset,
        job=job,
        row_kind=content.row_kind,
        config=_without_panel(content.config),
        metrics=content.metrics,
        created_by=job.created_by,
    )
    add_evaluations(job, model, content.evaluations, out)
    _record_exposures(artifact, dataset)
    record(
        actor=job.created_by,
        action="model.register",
        study=study,
        subject=model,
        detail={"version": model.version, "dataset": dataset.version, "job": job.pk},
    )
    if not study.model_versions.filter(row_kind=model.row_kind).exclude(pk=model.pk).exists():
        switch_to(model, actor=job.created_by, reason="first model version")
    return {
        "model": model.pk,
        "version": model.version,
        "dataset": dataset.pk,
        "dataset_version": dataset.version,
        "metrics": content.metrics,
        "links": [{"label": model.name, "url": reverse("model", args=[model.pk])}],
    }


def _without_panel(config: dict[str, Any]) -> dict[str, Any]:
    """The model's configuration without its genes: thousands perhaps, and in the artifact."""
    kept = {name: value for name, value in config.items() if name != "vocabulary"}
    genes = config.get("vocabulary", {}).get("symbols", [])
    return kept | {"n_genes": len(genes), "panel_hash": panel_hash(genes)}


def _record_exposures(artifact: Artifact, dataset: Dataset) -> None:
    """Who was seen, and how. Weights that come out bit for bit the same add nothing new."""
    seen = dataset.tables.order_by().values_list("patient_id", "part").distinct()
    Exposure.objects.bulk_create(
        (
            Exposure(model_artifact=artifact, patient_id=patient, part=part)
            for patient, part in seen
        ),
        ignore_conflicts=True,
    )
