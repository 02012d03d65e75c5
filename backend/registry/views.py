"""Pages: a study, import, training, and models."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from backend.accounts.permissions import Action, allows
from backend.jobs.api import JobSerializer
from backend.jobs.selectors import jobs_for
from backend.registry import cards, landing, selectors
from backend.registry.content import TrainParams
from backend.registry.evaluations import best_baseline, latest
from backend.registry.landing_scores import scores_picture
from backend.registry.planted import planted_truth
from backend.registry.planted_page import planted_page, without_outcomes
from backend.registry.serializers import (
    EvaluationSerializer,
    ModelDetailSerializer,
    ModelSerializer,
)
from backend.registry.slide_selectors import slide_counts, study_slides
from backend.studies.models import Study
from backend.studies.selectors import can_import, page_context, study_for
from ml.models.encoder_list import LISTED

LATEST_JOBS = 5
SLIDES_AT_FIRST = 50


@require_safe
def study(request: HttpRequest, slug: str) -> HttpResponse:
    found = study_for(request.user, slug)
    slides = study_slides(found, request.user)
    models = ModelSerializer(selectors.models_of(found), many=True).data
    jobs = jobs_for(request.user, study=found)[:LATEST_JOBS]
    promoted = selectors.promoted_model(found)
    picture = landing.held_out_picture(promoted, slides)
    scores = scores_picture(request.user, found, promoted)
    held_out = None if picture else landing.held_out_slide(promoted, slides)
    context = page_context(found) | {
        "counts": {"patients": found.n_patients, "models": len(models)} | slide_counts(found),
        "slides": slides,
        "slides_at_first": SLIDES_AT_FIRST,
        "stains": sorted({slide["stain"] for slide in slides}),
        "models": models,
        "jobs": JobSerializer(jobs, many=True, context={"request": request}).data,
        "active": landing.active_jobs(found),
        "promoted": promoted,
        "picture": picture,
        "held_out": held_out,
        "held_out_declined": bool(held_out and promoted.name in landing.declined_by(held_out)),
        "without_prediction": landing.without_prediction(promoted, slides),
        "survival": landing.survival_facts(found),
        "scores": scores,
        "estimate": None if models else selectors.training_estimate(found),
        "page": {
            "slides_at_first": SLIDES_AT_FIRST,
            "predict_url": reverse("api-predict", args=[found.slug]),
            "figure_url": reverse("api-study-figure", args=[found.slug]),
            "survival_url": reverse("survival", args=[found.slug]),
            "picture": picture,
            "scores": scores,
        },
    }
    return render(request, "studies/study.html", context)


@require_safe
def what_was_planted(request: HttpRequest, slug: str) -> HttpResponse:
    """What a synthetic study was made to hold, beside what its model in use found of it."""
    found = study_for(request.user, slug)
    truth = _truth_or_404(found)
    context = page_context(found) | planted_page(request.user, found, truth)
    return render(request, "studies/planted.html", context)


@require_safe
def planted_document(request: HttpRequest, slug: str) -> HttpResponse:
    """The document that the page is drawn from, to keep."""
    found = study_for(request.user, slug)
    return JsonResponse(
        _truth_or_404(found),
        headers={"Content-Disposition": f'attachment; filename="{found.slug}-truth.json"'},
        json_dumps_params={"indent": 1},
    )


def _truth_or_404(study: Study) -> dict[str, Any]:
    """What the study's reader may see of it: outcomes and what follows from them by role."""
    truth = planted_truth(study)
    if truth is None:
        raise Http404("Nothing was planted in this study.")
    return truth if allows(study.role, Action.SURVIVAL_VIEW) else without_outcomes(truth)


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
        "encoders": [
            {"name": e.name, "title": e.title, "note": e.note, "here": e.is_here()} for e in LISTED
        ],
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
    refused = selectors.not_predictable(found)
    evaluations = [
        EvaluationSerializer(one).data | {"best": best_baseline(one.metrics)}
        for one in latest(found.evaluations.all())
    ]
    context = page_context(study_for(request.user, found.study.slug)) | {
        "model": document,
        "evaluations": evaluations,
        "promotions": document["promotions"],
        "exposures": selectors.exposed_patients(found),
        "model_card": cards.model_card(found),
        "data_card": cards.data_card(found.dataset),
        "not_predictable": refused,
        "type_methods": _type_methods(found.metrics.get("cell_types")),
        "retrieval": next(
            (e["metrics"].get("retrieval") for e in evaluations if e["part"] == "test"), None
        ),
        "page": {
            "model": document,
            "promote_url": reverse("api-promote", args=[found.pk]),
        },
    }
    return render(request, "registry/model.html", context)


def _type_methods(cell_types: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    """Ways of telling cell types and their scores, the one in use first, baselines last."""
    order = ["probe", "knn", "zero_shot", "morphology", "majority"]
    methods = (cell_types or {}).get("methods", {})
    return sorted(methods.items(), key=lambda one: order.index(one[0]) if one[0] in order else 9)
