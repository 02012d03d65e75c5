"""The prediction job: a model's expression for every row of slides it is pointed at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.urls import reverse

from backend.accounts.services import record
from backend.cells.models import CellTable, Layer
from backend.cells.services import add_cell_table, add_layer
from backend.jobs.kinds import Spec
from backend.jobs.models import Job
from backend.jobs.services import local, work_folder
from backend.registry.content import PredictedSlide, PredictParams, PredictResult
from backend.registry.models import Declined, ModelVersion
from backend.registry.pseudobulk import put_predicted_patients
from backend.slides.models import Slide
from backend.slides.selectors import slides_of
from backend.studies.models import Study
from ml.errors import InputError
from ml.io import layers
from ml.io.annotations import Annotations


def model_of(study: Study, model_id: int) -> ModelVersion:
    """Raises InputError when the study has no such model version."""
    model = study.model_versions.select_related("artifact").filter(pk=model_id).first()
    if model is None:
        raise InputError(
            "predict.model",
            f"model {model_id}",
            "This study has no such model version.",
            "Choose a model version of this study.",
        )
    return model


def chosen_slides(study: Study, codes: list[str]) -> dict[str, Slide]:
    """The slides by code. Raises InputError for an unknown code or a slide that is not H&E."""
    slides = {slide.code: slide for slide in slides_of(study).filter(code__in=codes)}
    for code in codes:
        if code not in slides:
            raise InputError(
                "predict.slide",
                f"slide {code!r}",
                "This study has no slide of this code.",
                "Choose among the study's slides.",
            )
        if slides[code].stain != Slide.Stain.HE:
            raise InputError(
                "predict.stain",
                f"slide {code!r}",
                "The model reads H&E, and this slide has another stain.",
                "Choose H&E slides.",
            )
    return slides


def prepare_prediction(job: Job) -> Spec:
    params = PredictParams.model_validate(job.parameters)
    model = model_of(job.study, params.model)
    slides = chosen_slides(job.study, params.slides)
    tables = _tables(model, slides)
    inputs = [
        {
            "slide": str(local(slide.artifact)),
            "slide_code": code,
            "patient": slide.patient,
            "mpp": slide.mpp,
            "table": str(local(tables[code].artifact)) if code in tables else None,
            "table_sha256": tables[code].artifact.sha256 if code in tables else None,
        }
        for code, slide in sorted(slides.items())
    ]
    return Spec(
        params={"way": params.way},
        inputs={
            "work": str(work_folder(job)),
            "model": str(local(model.artifact)),
            "model_sha256": model.artifact.sha256,
            "slides": inputs,
        },
    )


def _tables(model: ModelVersion, slides: dict[str, Slide]) -> dict[str, CellTable]:
    """The table whose rows a slide's prediction uses: measured ones, else positions found before.

    Positions of spots serve only a model of the same spot diameter.
    """
    diameter = model.config.get("spot_diameter_um")
    tables = (
        CellTable.objects.filter(slide__in=slides.values(), row_kind=model.row_kind)
        .select_related("artifact", "slide")
        .order_by("n_genes", "created_at")
    )
    return {
        table.slide.code: table
        for table in tables
        if table.is_measured or table.spot_diameter_um == diameter or model.row_kind == "cell"
    }


def commit_prediction(job: Job, result: dict[str, Any], out: Path) -> dict[str, Any]:
    """Layers for the slides that the model took, a note on those that it declined."""
    content = PredictResult.model_validate(result)
    study = Study.objects.select_for_update().get(pk=job.study_id)
    model = model_of(study, PredictParams.model_validate(job.parameters).model)
    slides = chosen_slides(study, [slide.slide_code for slide in content.slides])
    for predicted in content.slides:
        save = _decline if predicted.declined else _save_layer
        save(job, model, slides[predicted.slide_code], predicted, out)
    put_predicted_patients(
        job=job,
        study=study,
        model=model,
        content=content.patient_table,
        out=out,
        slides=list(slides.values()),
    )
    declined = [
        {"slide": slide.slide_code, "share": slide.ood_share, "threshold": _threshold(model)}
        for slide in sorted(content.slides, key=lambda slide: slide.slide_code)
        if slide.declined
    ]
    record(
        actor=job.created_by,
        action="predict.save",
        study=study,
        subject=model,
        detail={
            "job": job.pk,
            "slides": sorted(slides),
            "declined": [entry["slide"] for entry in declined],
        },
    )
    return {
        "model": model.pk,
        "rows": sum(slide.n_rows for slide in content.slides if not slide.declined),
        "declined": declined,
        "way": content.way,
        "seconds": content.seconds,
        "rows_per_s": content.rows_per_s,
        "links": [
            {"label": f"Slide {code}", "url": reverse("slide", args=[slide.pk])}
            for code, slide in sorted(slides.items())
        ],
    }


def _save_layer(
    job: Job, model: ModelVersion, slide: Slide, predicted: PredictedSlide, out: Path
) -> None:
    path = out / predicted.layer
    table = _table_found(job, slide, predicted, out) or _table_named(
        slide, layers.Layer.open(path).table_sha256
    )
    add_layer(
        job=job,
        table=table,
        model_artifact=model.artifact,
        kind=Layer.Kind.EXPRESSION,
        path=path,
        unit=predicted.unit,
        panel_hash=predicted.panel_hash,
    )
    _save_annotations(job, model, table, predicted, out)
    slide.declined.filter(model_artifact=model.artifact).delete()


def _decline(
    job: Job, model: ModelVersion, slide: Slide, predicted: PredictedSlide, out: Path
) -> None:
    """Notes that the model declined the slide; what it said of the slide before goes.

    Rows that were found are kept: where the nuclei are does not depend on the model.
    """
    table = _table_found(job, slide, predicted, out)
    Layer.objects.filter(table__slide=slide, model_artifact=model.artifact).delete()
    if any(predicted.annotations.values()):
        named = table or _table_named(slide, _annotated_table(predicted, out))
        _save_annotations(job, model, named, predicted, out)
    Declined.objects.update_or_create(
        slide=slide,
        model_artifact=model.artifact,
        defaults={"job": job, "share": predicted.ood_share, "threshold": _threshold(model)},
    )


def _save_annotations(
    job: Job, model: ModelVersion, table: CellTable, predicted: PredictedSlide, out: Path
) -> None:
    """Types and trust of the rows; what the model says no more goes."""
    kinds = (Layer.Kind.CELL_TYPE, Layer.Kind.TRUST)
    table.layers.filter(kind__in=kinds, model_artifact=model.artifact).delete()
    for kind in kinds:
        path = predicted.annotations.get(kind.value)
        if path:
            _check_annotations(Annotations.open(out / path), table, model)
            add_layer(
                job=job, table=table, model_artifact=model.artifact, kind=kind, path=out / path
            )


def _check_annotations(found: Annotations, table: CellTable, model: ModelVersion) -> None:
    """Refuses annotations of other rows or of another model: they would be shown beside these."""
    said = found.attributes.get("table_sha256"), found.attributes.get("model_sha256"), found.n_rows
    if said != (table.artifact.sha256, model.artifact.sha256, table.n_rows):
        raise InputError(
            "predict.annotations_mismatch",
            f"slide {table.slide.code!r}, {found.kind}",
            f"They are of {found.n_rows} rows of another table or by another model than the "
            f"{table.n_rows} rows of this slide's table.",
            "Start the prediction again.",
        )


def _annotated_table(predicted: PredictedSlide, out: Path) -> str:
    """Hash of the table whose rows the annotations are about."""
    path = next(path for path in predicted.annotations.values() if path)
    return str(Annotations.open(out / path).attributes["table_sha256"])


def _threshold(model: ModelVersion) -> float:
    """The share of rows outside the training distribution above which the model declines."""
    return model.metrics["ood"]["decline_above"]


def _table_found(job: Job, slide: Slide, predicted: PredictedSlide, out: Path) -> CellTable | None:
    """The table that the prediction had to find first, stored; None where there was one."""
    found = predicted.table
    if found is None:
        return None
    if found.row_kind == "spot":
        # Grids for models of different spots stand beside each other.
        source = f"{found.source} {found.spot_diameter_um:g} µm"
        found = found.model_copy(update={"source": source})
    return add_cell_table(job=job, slide=slide, content=found, out=out)


def _table_named(slide: Slide, sha256: str) -> CellTable:
    """The slide's table of this content, in whose row order the layers are."""
    table = slide.cell_tables.select_related("artifact").filter(artifact__sha256=sha256).first()
    if table is None:
        raise InputError(
            "predict.table_changed",
            f"slide {slide.code!r}",
            "The slide's cell table was replaced while the prediction ran.",
            "Start the prediction again.",
        )
    table.slide = slide
    return table
