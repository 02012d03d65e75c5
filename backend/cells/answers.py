"""Answers whose content is fixed by artifact hashes: entity tags, 304 and caching."""

from __future__ import annotations

from collections.abc import Callable

from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response

from backend.cells.expression import ARROW_STREAM

# In the entity tag, so that a browser drops what an older release of this code computed.
_FORMAT = "1"


def arrow_answer(
    request: HttpRequest, parts: tuple[str, ...], content: Callable[[], bytes | None]
) -> HttpResponseBase:
    """An Arrow stream, or 304 when the browser has it, or Http404 when `content` gives None.

    `parts` name everything that the content follows from. An address that carries `?v=` and the
    hash with which `parts` begin can never mean other bytes, so it is kept without asking again;
    any other address is kept and revalidated.
    """
    etag = f'"{_FORMAT}-{"-".join(parts)}"'
    named = request.GET.get("v", "")
    fixed = len(named) >= 12 and parts[0].startswith(named)
    headers = {
        "ETag": etag,
        "Cache-Control": "private, max-age=31536000, immutable" if fixed else "private, no-cache",
    }
    fresh = get_conditional_response(request, etag, None, HttpResponse())
    if fresh.status_code == 304:
        for name, value in headers.items():
            fresh[name] = value
        return fresh
    body = content()
    if body is None:
        raise Http404("There are no such values here.")
    return HttpResponse(body, content_type=ARROW_STREAM, headers=headers)
