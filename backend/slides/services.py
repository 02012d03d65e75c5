"""Writes of slides."""

from __future__ import annotations

from pathlib import Path

from backend.jobs.models import Artifact, Job
from backend.jobs.services import store_artifact
from backend.slides.content import SlideContent
from backend.slides.models import Slide
from backend.studies.models import Specimen, Study


def add_imported_slides(
    *, job: Job, study: Study, slides: list[SlideContent], out: Path
) -> dict[str, Slide]:
    """Store the slides that an import job wrote under `out` and create their rows, by slide code.

    Part of committing a job: the job's start was authorised, and its commit is one transaction.
    """
    specimens = {
        (specimen.patient.code, specimen.code): specimen
        for specimen in Specimen.objects.filter(patient__study=study).select_related("patient")
    }
    rows = [
        Slide(
            study=study,
            specimen=specimens[slide.patient, slide.specimen],
            artifact=_stored(job, out / slide.file, Artifact.Kind.SLIDE),
            thumbnail=_stored(job, out / slide.thumbnail, Artifact.Kind.THUMBNAIL),
            **slide.model_dump(
                include={"code", "block", "section", "stain", "marker", "synthetic"}
            ),
            **slide.info.model_dump(),
        )
        for slide in slides
    ]
    return {slide.code: slide for slide in Slide.objects.bulk_create(rows)}


def _stored(job: Job, path: Path, kind: Artifact.Kind) -> Artifact:
    return store_artifact(job=job, path=path, kind=kind)
