"""A model's patient table: each patient's mean predicted expression over all predicted rows."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from django.db.models import F

from backend.cells.expression import open_layer
from backend.cells.models import Layer
from backend.jobs.models import Artifact, Job
from backend.jobs.services import local, store_artifact
from backend.registry.content import PredictedPatients
from backend.registry.models import ModelVersion, PatientColumn, PatientTable
from backend.slides.models import Slide
from backend.studies.models import Study

_BATCH = 2000


def put_predicted_patients(
    *,
    job: Job,
    study: Study,
    model: ModelVersion,
    content: PredictedPatients | None,
    out: Path,
    slides: list[Slide],
) -> PatientTable | None:
    """Bring the model's patient table up to date with the slides a job predicted.

    One table per model: it keeps patients of earlier jobs, and a patient who has slides in this job
    and in earlier ones gets the mean over the rows of all of them, from the layers. Whoever has no
    layer of the model any more is left out.

    Args:
        content: the job's own table under `out`, parquet with index "patient"; None when the model
            declined every slide.
        slides: what the job looked at, with `patient`; their layers are in the database.

    Returns:
        The model's table; None where there is none and nothing was predicted.
    """
    table = PatientTable.objects.filter(
        study=study, source=PatientTable.Source.PREDICTED, model_artifact=model.artifact
    ).first()
    earlier = pd.read_parquet(local(table.artifact)) if table else None
    rows = pd.read_parquet(out / content.path) if content else earlier
    if rows is None:
        return None
    rows = _merged(rows, _means_over_all_slides(study, model, slides, list(rows.columns)))
    if earlier is not None:
        rows = _merged(earlier, rows)
    rows = rows[rows.index.isin(_predicted_patients(study, model))]
    rows = rows.sort_index().astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder) / "patients.parquet"
        rows.to_parquet(merged)
        artifact = store_artifact(
            job=job, path=merged, kind=Artifact.Kind.PATIENT_TABLE, inputs=[model.artifact]
        )
    if table:
        table.artifact, table.n_patients = artifact, len(rows)
        table.save(update_fields=["artifact", "n_patients"])
        return table
    table = PatientTable.objects.create(
        study=study,
        name=f"{model.name} predicted expression",
        source=PatientTable.Source.PREDICTED,
        unit=content.unit,
        artifact=artifact,
        model_artifact=model.artifact,
        n_patients=len(rows),
    )
    PatientColumn.objects.bulk_create(
        (PatientColumn(table=table, name=name) for name in content.columns), batch_size=_BATCH
    )
    return table


def _merged(below: pd.DataFrame, above: pd.DataFrame) -> pd.DataFrame:
    """The rows of both; of a patient in both, the row of `above`."""
    kept = below.loc[below.index.difference(above.index)]
    return pd.concat([kept, above]).rename_axis("patient")


def _predicted_patients(study: Study, model: ModelVersion) -> list[str]:
    """Codes of the patients with a layer of the model on some slide."""
    layers = Layer.objects.filter(
        kind=Layer.Kind.EXPRESSION, model_artifact=model.artifact, table__slide__study=study
    )
    return list(layers.order_by().values_list("table__slide__specimen__patient__code", flat=True))


def _means_over_all_slides(
    study: Study, model: ModelVersion, slides: list[Slide], genes: list[str]
) -> pd.DataFrame:
    """(patients × genes) for the patients of `slides` who have further slides predicted before."""
    patients: dict[str, list[Layer]] = defaultdict(list)
    layers = (
        Layer.objects.filter(
            kind=Layer.Kind.EXPRESSION,
            model_artifact=model.artifact,
            table__slide__study=study,
            table__slide__specimen__patient__code__in={slide.patient for slide in slides},
        )
        .select_related("artifact", "table")
        .annotate(patient=F("table__slide__specimen__patient__code"))
    )
    for layer in layers:
        patients[layer.patient].append(layer)
    done = {slide.pk for slide in slides}
    partial = {
        patient: found
        for patient, found in patients.items()
        if any(layer.table.slide_id not in done for layer in found)
    }
    means = [_mean(found, genes) for found in partial.values()]
    return pd.DataFrame(means, index=list(partial), columns=genes, dtype=np.float32)


def _mean(layers: Sequence[Layer], genes: list[str]) -> list[float]:
    opened = [open_layer(layer.artifact) for layer in layers]
    n_rows = sum(layer.n_rows for layer in opened)
    means = []
    for gene in genes:
        total = 0.0
        for layer in opened:
            levels, scale, offset = layer.gene_uint8(gene)
            total += float(offset) * layer.n_rows + float(scale) * int(levels.sum(dtype=np.int64))
        means.append(total / n_rows)
    return means
