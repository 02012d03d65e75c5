"""Writes of cell tables and layers; each is part of committing a job that was authorised."""

from __future__ import annotations

from pathlib import Path

from backend.cells.content import CellTableContent
from backend.cells.models import CellTable, Layer
from backend.jobs.models import Artifact, Job
from backend.jobs.services import store_artifact
from backend.slides.models import Slide


def add_cell_table(*, job: Job, slide: Slide, content: CellTableContent, out: Path) -> CellTable:
    """Store a cell table and point the slide's row of that source at it.

    A table that is already there with the same content is kept as it is, layers included; one with
    other content is replaced, and its layers go with it: their rows would not match.
    """
    artifact = store_artifact(
        job=job, path=out / content.path, kind=Artifact.Kind.CELL_TABLE, inputs=[slide.artifact]
    )
    existing = slide.cell_tables.filter(source=content.source).first()
    if existing:
        if existing.artifact_id == artifact.pk:
            return existing
        existing.delete()
    return CellTable.objects.create(
        slide=slide, artifact=artifact, **content.model_dump(exclude={"path"})
    )


def add_layer(
    *,
    job: Job,
    table: CellTable,
    model_artifact: Artifact,
    kind: Layer.Kind,
    path: Path,
    unit: str = "",
    panel_hash: str = "",
) -> Layer:
    """Store a layer of a model; it takes the place of the same model's earlier one of its kind.

    `unit` and `panel_hash` are those of predicted expression; other kinds have none.
    """
    artifact = store_artifact(
        job=job,
        path=path,
        kind=Artifact.Kind.LAYER,
        inputs=[table.slide.artifact, table.artifact, model_artifact],
    )
    table.layers.filter(kind=kind, model_artifact=model_artifact).delete()
    return Layer.objects.create(
        table=table,
        kind=kind,
        artifact=artifact,
        model_artifact=model_artifact,
        unit=unit,
        panel_hash=panel_hash,
    )
