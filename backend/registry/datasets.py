"""Freezing a dataset: which measured cell tables, in which version, play which part."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import F, Max, QuerySet

from backend.cells.models import CellTable
from backend.jobs.models import Artifact, Job
from backend.jobs.services import local, store_artifact
from backend.registry.content import TrainParams
from backend.registry.models import Dataset, DatasetTable
from backend.registry.splits import Section, Split, split_sections
from backend.studies.models import Study
from ml.errors import InputError


def measured_tables(study: Study) -> QuerySet[CellTable]:
    """Measured cell tables of H&E slides with `code`, `patient`, `patient_id` and the part
    `planned` for the patient ("" for none), by code."""
    return (
        CellTable.objects.filter(slide__study=study, slide__stain="H&E", n_genes__gt=0)
        .select_related("artifact", "slide__artifact")
        .annotate(
            code=F("slide__code"),
            patient=F("slide__specimen__patient__code"),
            patient_id=F("slide__specimen__patient_id"),
            planned=F("slide__specimen__patient__part"),
        )
        .order_by("code", "source")
    )


def section(table: CellTable, patient: str, part: str) -> dict[str, Any]:
    """A measured slide as jobs name it (see `ml.training.prepare.SectionInput`)."""
    slide = table.slide
    return {
        "slide": str(local(slide.artifact)),
        "table": str(local(table.artifact)),
        "slide_code": slide.code,
        "patient": patient,
        "part": str(part),
        "mpp": slide.mpp,
        "slide_sha256": slide.artifact.sha256,
        "table_sha256": table.artifact.sha256,
    }


@transaction.atomic
def freeze_dataset(*, job: Job, params: TrainParams) -> tuple[Dataset, list[CellTable]]:
    """The dataset of a training job and its tables, each with its `part`.

    The same tables in the same parts, decided the same way, are the same dataset: another attempt,
    or another training with the same split, gets the version that is there.

    Raises InputError when the study cannot be split as asked.
    """
    study = Study.objects.select_for_update().get(pk=job.study_id)
    row_kind, tables = _tables(study, params)
    split = split_sections(
        [Section(table.code, table.patient, table.n_rows, table.planned) for table in tables],
        validation=params.validation,
        test=params.test,
        seed=params.seed,
    )
    for table in tables:
        table.part = split.parts[table.code]
    artifact = _manifest(job, study, row_kind, split, tables)
    existing = study.datasets.filter(artifact=artifact).first()
    if existing:
        return existing, tables
    dataset = Dataset.objects.create(
        study=study,
        version=(study.datasets.aggregate(last=Max("version"))["last"] or 0) + 1,
        artifact=artifact,
        row_kind=row_kind,
        same_patient=split.same_patient,
        split=split.by,
    )
    DatasetTable.objects.bulk_create(
        DatasetTable(
            dataset=dataset,
            table=table,
            table_sha256=table.artifact.sha256,
            slide_sha256=table.slide.artifact.sha256,
            patient_id=table.patient_id,
            part=table.part,
        )
        for table in tables
    )
    return dataset, tables


def _tables(study: Study, params: TrainParams) -> tuple[str, list[CellTable]]:
    """One measured table per slide, of the kind asked for or else of the more frequent kind."""
    tables = list(measured_tables(study))
    if not tables:
        raise InputError(
            "train.nothing_measured",
            f"study {study.slug}",
            "No H&E slide of this study has measured expression.",
            "Import a study whose slides.csv names cell tables with counts.",
        )
    kinds = [table.row_kind for table in tables]
    row_kind = params.row_kind or max(sorted(set(kinds)), key=kinds.count)
    by_slide = {table.code: table for table in tables if table.row_kind == row_kind}
    return row_kind, list(by_slide.values())


def _manifest(
    job: Job, study: Study, row_kind: str, split: Split, tables: list[CellTable]
) -> Artifact:
    """The dataset's canonical JSON: sorted keys, no spaces, tables by slide code."""
    content: dict[str, Any] = {
        "study": study.slug,
        "row_kind": row_kind,
        "same_patient": split.same_patient,
        "split": str(split.by),
        "tables": [
            {
                "slide": table.code,
                "patient": table.patient,
                "part": str(table.part),
                "mpp": table.slide.mpp,
                "n_rows": table.n_rows,
                "n_genes": table.n_genes,
                "panel_hash": table.panel_hash,
                "table_sha256": table.artifact.sha256,
                "slide_sha256": table.slide.artifact.sha256,
            }
            for table in tables
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.json"
        path.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")))
        inputs = [table.artifact for table in tables] + [t.slide.artifact for t in tables]
        return store_artifact(job=job, path=path, kind=Artifact.Kind.DATASET, inputs=inputs)
