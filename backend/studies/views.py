"""Pages: the list of studies, and a study's cohort."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from backend.studies import selectors


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    studies = [
        {
            "study": study,
            "role": study.role,
            "n_patients": study.n_patients,
            "n_slides": study.n_slides,
            "n_models": study.n_models,
        }
        for study in selectors.studies_for(request.user)
    ]
    context = {"studies": studies, "can_import": selectors.can_import(request.user), "study": None}
    return render(request, "studies/home.html", context)


@require_safe
def cohort(request: HttpRequest, slug: str) -> HttpResponse:
    study = selectors.study_for(request.user, slug)
    table = selectors.cohort(study)
    context = selectors.page_context(study) | table | {"page": {"slug": study.slug} | table}
    return render(request, "studies/cohort.html", context)
