"""Pages: a study, import, training, and models."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from backend.accounts.permissions import Action
from backend.jobs.api import JobSerializer
from backend.jobs.selectors import jobs_for
from backend.registry import selectors
from backend.registry.content import TrainParams
from backend.registry.serializers import (
    EvaluationSerializer,
    ModelDetailSerializer,
    ModelSerializer,
)
from backend.registry.slide_selectors import slide_counts, study_slides
from backend.studies.selectors import can_import, page_context, study_for

LATEST_JOBS = 5


@require_safe
def study(request: HttpRequest, slug: str) -> HttpResponse:
    found = study_for(request.user, slug)
    slides = study_slides(found, request.user)
    models = ModelSerializer(selectors.models_of(found), many=True).data
    jobs = jobs_for(request.user, study=found)[:LATEST_JOBS]
    context = page_context(found) | {
        "counts": {"patients": found.n_patients, "models": len(models)} | slide_counts(found),
        "slides": slides,
        "models": models,
        "jobs": JobSerializer(jobs, many=True, context={"request": request}).data,
        "page": {
            "slug": found.slug,
            "predict_url": reverse("api-predict", args=[found.slug]),
            "slides": [_of(slide, "id", "code", "measured", "predicted") for slide in slides],
            "models": [_of(model, "id", "name", "row_kind", "status") for model in models],
        },
    }
    return render(request, "studies/study.html", context)


@require_safe
def import_study(request: HttpRequest) -> HttpResponse:
    if not can_import(request.user):
        raise PermissionDenied("Only staff may import studies.")
    context = {
        "study": None,
        "import_roots": settings.IMPORT_ROOTS,
        "page": {"import_url": reverse("api-import")},
    }
    return render(request, "registry/import.html", context)


@require_safe
def train(request: HttpRequest, slug: str) -> HttpResponse:
    found = study_for(request.user, slug, Action.MODEL_TRAIN)
    choices: dict[str, Any] = {
        "measured": selectors.trainable(found),
        "defaults": TrainParams().model_dump(mode="json"),
        "estimate": selectors.training_estimate(found),
    }
    page = choices | {"slug": found.slug, "train_url": reverse("api-train", args=[found.slug])}
    return render(request, "registry/train.html", page_context(found) | choices | {"page": page})


@require_safe
def models(request: HttpRequest, slug: str) -> HttpResponse:
    found = study_for(request.user, slug, Action.MODEL_VIEW)
    listed = ModelSerializer(selectors.models_of(found), many=True).data
    context = page_context(found) | {"models": listed, "page": {"models": listed}}
    return render(request, "registry/models.html", context)


@require_safe
def model(request: HttpRequest, model_id: int) -> HttpResponse:
    found = selectors.model_for(request.user, model_id)
    document = ModelDetailSerializer(found).data
    evaluations = [
        EvaluationSerializer(evaluation).data | {"genes": selectors.gene_scores(evaluation)}
        for evaluation in found.evaluations.all()
    ]
    context = page_context(study_for(request.user, found.study.slug)) | {
        "model": document,
        "evaluations": evaluations,
        "promotions": document["promotions"],
        "exposures": selectors.exposed_patients(found),
        "page": {
            "model": document,
            "evaluations": evaluations,
            "promote_url": reverse("api-promote", args=[found.pk]),
        },
    }
    return render(request, "registry/model.html", context)


def _of(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}
