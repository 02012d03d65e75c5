"""Reads of slides, and the addresses of their tiles."""

from __future__ import annotations

from django.db.models import F, QuerySet
from django.http import Http404
from django.urls import reverse

from backend.accounts.models import User
from backend.accounts.permissions import Action
from backend.jobs.models import Artifact
from backend.slides.models import Slide
from backend.slides.tokens import make_token
from backend.studies.models import Study
from backend.studies.selectors import require, role_in


def slide_for(user: User, slide_id: int, action: Action = Action.SLIDE_VIEW) -> Slide:
    """The slide with study, files and patient (`patient`, `patient_id`, the user's `role`).

    Raises Http404 when `user` may not see it, PermissionDenied when their role lacks `action`.
    """
    slides = Slide.objects.visible_to(user).annotate(role=role_in(user, "study"))
    slide = _with_files(slides).filter(pk=slide_id).select_related("study").first()
    if slide is None:
        raise Http404("No such slide.")
    require(slide.role, action)
    return slide


def slides_of(study: Study) -> QuerySet[Slide]:
    """A study's slides by code, with their files and patients in the same query."""
    return _with_files(study.slides.order_by("code"))


def _with_files(slides: QuerySet[Slide]) -> QuerySet[Slide]:
    return slides.select_related("artifact", "thumbnail").annotate(
        patient=F("specimen__patient__code"), patient_id=F("specimen__patient_id")
    )


def tile_url(slide: Slide, user: User) -> str:
    """The template of the slide's tile addresses, with {z}, {x} and {y} to be filled in."""
    address = reverse("tile", args=[_token(slide.artifact, user), 0, 0, 0])
    return address.removesuffix("0/0/0.jpg") + "{z}/{x}/{y}.jpg"


def thumbnail_url(slide: Slide, user: User) -> str:
    return reverse("thumbnail", args=[_token(slide.thumbnail, user)])


def _token(artifact: Artifact, user: User) -> str:
    return make_token(sha256=artifact.sha256, uri=artifact.uri, user_id=user.pk)
