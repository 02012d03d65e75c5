"""The survival dashboard."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe
from pydantic import ValidationError

from backend.accounts.permissions import Action
from backend.studies.selectors import endpoints, page_context, study_for
from backend.survival import selectors
from backend.survival.questions import KaplanMeierRequest


@require_safe
def dashboard(request: HttpRequest, slug: str) -> HttpResponse:
    """The page; the address may carry an analysis, else it opens with a first useful curve."""
    study = study_for(request.user, slug, Action.SURVIVAL_VIEW)
    opening, refused = None, False
    if request.GET.get("endpoint"):
        try:
            opening = KaplanMeierRequest.from_query(request.GET)
        except ValidationError:
            refused = True
    opening = opening or selectors.opening_request(study)
    found = endpoints(study)
    page = {
        "slug": study.slug,
        "synthetic": study.synthetic,
        "endpoints": found,
        "opening": opening.model_dump(mode="json") if opening else None,
        "may_save": "survival.save" in page_context(study)["allowed"],
        "urls": {
            name: reverse(f"api-{view}", args=[study.slug])
            for name, view in (
                ("km", "km"),
                ("csv", "km-csv"),
                ("svg", "km-svg"),
                ("stratifiers", "stratifiers"),
                ("saved", "survival-saved"),
                ("fit", "survival-fit"),
            )
        },
    }
    context = page_context(study) | {
        "page": page,
        "endpoints": found,
        "has_outcomes": opening is not None,
        "refused": refused,
        "risk_models": selectors.risk_models(request.user, study),
        "clinical_columns": list(study.clinical_columns.values("name", "label")),
    }
    return render(request, "survival/dashboard.html", context)
