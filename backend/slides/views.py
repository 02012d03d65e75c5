"""The viewer page, and the two image views, which need no database and no session."""

from __future__ import annotations

from pathlib import Path

from django.contrib.auth.decorators import login_not_required
from django.core.signing import BadSignature
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseForbidden
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from backend.jobs.models import Artifact
from backend.jobs.services import local
from backend.slides import selectors
from backend.slides.tokens import MAX_AGE_S, read_token
from backend.studies.selectors import page_context, study_for
from ml.errors import InputError
from ml.io.slides import open_slide

_CACHE = f"private, max-age={MAX_AGE_S}, immutable"


@require_safe
def viewer(request: HttpRequest, slide_id: int) -> HttpResponse:
    slide = selectors.slide_for(request.user, slide_id)
    context = page_context(study_for(request.user, slide.study.slug)) | {
        "slide": slide,
        "page": {"slide": slide.pk, "api": reverse("api-slide", args=[slide.pk])},
    }
    return render(request, "slides/viewer.html", context)


@login_not_required
@require_safe
def tile(request: HttpRequest, token: str, z: int, x: int, y: int) -> HttpResponse:
    """JPEG tile (large-image's z/x/y). 403: token bad or expired; 404: no such tile or file."""
    try:
        jpeg = open_slide(_file_of(token)).tile(z, x, y)
    except BadSignature as error:
        return HttpResponseForbidden(str(error))
    except (IndexError, InputError) as error:
        raise Http404("No such tile.") from error
    return HttpResponse(jpeg, content_type="image/jpeg", headers={"Cache-Control": _CACHE})


@login_not_required
@require_safe
def thumbnail(request: HttpRequest, token: str) -> HttpResponseBase:
    try:
        file = _file_of(token).open("rb")
    except BadSignature as error:
        return HttpResponseForbidden(str(error))
    except InputError as error:
        raise Http404("No such slide.") from error
    return FileResponse(file, content_type="image/jpeg", headers={"Cache-Control": _CACHE})


def _file_of(token: str) -> Path:
    """The artifact's file. The row is not read: the token says all that the object store needs."""
    slide = read_token(token)
    return local(Artifact(sha256=slide.sha256, uri=slide.uri))
