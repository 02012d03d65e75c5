"""What a study's own page puts first: the held-out slide, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from backend.jobs.models import Job
from backend.registry.models import ModelVersion, PatientTable
from backend.registry.selectors import best_genes, held_out_label
from backend.registry.slide_selectors import area_mm2
from backend.slides.models import Slide
from backend.studies.models import Study

PICTURE_WIDTH = 640


def active_jobs(study: Study) -> dict[str, Job]:
    """Kind → the newest job of the study that waits or runs."""
    running = study.jobs.filter(status__in=Job.ACTIVE).order_by("pk")
    return {job.kind: job for job in running.only("kind", "title", "status", "stage", "progress")}


def held_out_picture(
    model: ModelVersion | None, slides: Iterable[dict[str, Any]]
) -> dict[str, Any] | None:
    """The largest held-out slide that `model` has predicted, and the genes it shows best.

    Args:
        slides: documents of `study_slides`.

    Returns:
        slide, table and layer (documents), genes (`gene`, `pcc`), what the scores were measured on,
        and the size of the picture in pixels; None where there is nothing to show.
    """
    if model is None:
        return None
    shown = [
        (slide, table, layer)
        for slide in slides
        for table in slide["tables"]
        for layer in table["layers"]
        if table["measured"]
        and layer["kind"] == "expression"
        and layer["part"] == "test"
        and (layer["model"] or {}).get("id") == model.pk
    ]
    genes = best_genes(model) if shown else []
    if not genes:
        return None
    slide, table, layer = max(shown, key=lambda found: area_mm2(found[0]))
    return {
        "slide": slide,
        "table": table,
        "layer": layer,
        "model": {"id": model.pk, "name": model.name},
        "genes": [{"gene": score["gene"], "pcc": score["pcc"]} for score in genes],
        "scored_on": held_out_label(model.dataset, "test"),
        "width": PICTURE_WIDTH,
        "height": max(1, round(PICTURE_WIDTH * slide["height"] / slide["width"])),
    }


def held_out_slide(
    model: ModelVersion | None, slides: Iterable[dict[str, Any]]
) -> dict[str, Any] | None:
    """The largest slide that `model` holds out, predicted or not; of those it has not declined
    where there is one."""
    if model is None:
        return None
    hashes = set(
        model.dataset.tables.filter(part="test", table__isnull=False).values_list(
            "table__slide_id", flat=True
        )
    )
    held_out = [slide for slide in slides if slide["id"] in hashes]
    taken = [slide for slide in held_out if model.name not in declined_by(slide)]
    return max(taken or held_out, key=area_mm2, default=None)


def declined_by(slide: dict[str, Any]) -> set[str]:
    """Names of the models that declined the slide of a document."""
    return {declined["model"] for declined in slide["declined"]}


def without_prediction(model: ModelVersion | None, slides: Iterable[dict[str, Any]]) -> int:
    """H&E slides that `model` has neither predicted nor declined."""
    if model is None:
        return 0
    return sum(
        slide["stain"] == Slide.Stain.HE
        and model.name not in slide["predicted"]
        and model.name not in declined_by(slide)
        for slide in slides
    )


def survival_facts(study: Study) -> dict[str, bool]:
    """Whether there are outcomes with events, and predicted columns to divide the cohort by."""
    return {
        "outcomes": study.endpoints.filter(outcomes__cause__gt=0).exists(),
        "predicted": study.patient_tables.filter(source=PatientTable.Source.PREDICTED).exists(),
    }
