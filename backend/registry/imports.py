"""The import job: from a folder on the server to a study."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.urls import reverse

from backend.cells.services import add_cell_table
from backend.jobs.kinds import Spec
from backend.jobs.models import Artifact, Job
from backend.jobs.services import store_artifact
from backend.registry.content import ImportParams, ImportResult, PatientTableContent
from backend.registry.models import PatientColumn, PatientTable, PlantedTruth
from backend.slides.services import add_imported_slides
from backend.studies.models import Study
from backend.studies.services import create_study, refuse_slug
from ml.errors import InputError

BATCH = 2000


def checked_path(path: str) -> str:
    """The real path, if it and every link under it lie inside `settings.IMPORT_ROOTS`.

    What lies outside and what does not exist give the same InputError, so that nobody learns from
    it what else is on the server.
    """
    roots = [Path(root).resolve() for root in settings.IMPORT_ROOTS]
    real = _real(path)
    if real is None or not _inside(real, roots):
        raise InputError(
            "import.path",
            f"path {path!r}",
            "There is no such folder where this server imports from.",
            f"Give a folder under {' or '.join(str(root) for root in roots)}.",
        )
    for link in _links(real):
        if not _inside(link.resolve(), roots):
            raise InputError(
                "import.link",
                str(link),
                "The link leads out of the folders that this server imports from.",
                "Put the file itself there, or ask for its place to be added to IMPORT_ROOTS.",
            )
    return str(real)


def _real(path: str) -> Path | None:
    """The real path; None when nothing is there, or there can be no such path (loops, NUL)."""
    try:
        return Path(path).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None


def _inside(path: Path, roots: list[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _links(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (found := Path(parent, name)).is_symlink():
                yield found


def prepare_import(job: Job) -> Spec:
    params = ImportParams.model_validate(job.parameters)
    folder = Path(params.path)
    if not folder.exists():
        raise InputError(
            "import.path",
            f"path {params.path!r}",
            "There is nothing at this path.",
            "Give the path of a folder on the server.",
        )
    _refuse_early(folder / "study.json")
    return Spec(params={"format": params.format}, inputs={"path": str(folder)})


def _refuse_early(head: Path) -> None:
    """Refuse a taken slug before slides are converted; `ml` tells of whatever else is wrong."""
    try:
        slug = json.loads(head.read_text())["slug"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if isinstance(slug, str):
        refuse_slug(slug)


def commit_import(job: Job, result: dict[str, Any], out: Path) -> dict[str, Any]:
    content = ImportResult.model_validate(result)
    if job.created_by is None:
        raise PermissionDenied("An import needs somebody who becomes the study's admin.")
    study = create_study(actor=job.created_by, content=content)
    job.study = study
    slides = add_imported_slides(job=job, study=study, slides=content.slides, out=out)
    for slide in content.slides:
        if slide.cells:
            add_cell_table(job=job, slide=slides[slide.code], content=slide.cells, out=out)
    for table in content.patient_tables:
        _add_patient_table(job=job, study=study, content=table, out=out)
    if content.truth:
        artifact = store_artifact(job=job, path=out / content.truth, kind=Artifact.Kind.TRUTH)
        PlantedTruth.objects.create(study=study, artifact=artifact)
    return {
        "study": study.slug,
        "patients": len(content.patients),
        "slides": len(slides),
        "cell_tables": sum(slide.cells is not None for slide in content.slides),
        "links": [{"label": study.name, "url": reverse("study", args=[study.slug])}],
    }


def _add_patient_table(
    *, job: Job, study: Study, content: PatientTableContent, out: Path
) -> PatientTable:
    artifact = store_artifact(job=job, path=out / content.path, kind=Artifact.Kind.PATIENT_TABLE)
    table = PatientTable.objects.create(
        study=study,
        artifact=artifact,
        **content.model_dump(include={"name", "source", "unit", "n_patients"}),
    )
    PatientColumn.objects.bulk_create(
        (PatientColumn(table=table, name=name) for name in content.columns), batch_size=BATCH
    )
    return table
