"""Errors of the API as problem details (RFC 9457).

Every answer has type, title, status and detail; what a user can act on adds code, where, what and
remedy, and a form's mistakes add errors (field → messages).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.http import Http404
from pydantic import ValidationError as PydanticValidationError
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from ml.errors import InputError

MEDIA_TYPE = "application/problem+json"


def problem(status: int, detail: str, **members: Any) -> Response:
    """One problem detail. `code` becomes the type, so that programs can tell problems apart."""
    code = members.get("code")
    body = {
        "type": f"urn:past:problem:{code}" if code else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **members,
    }
    return Response(body, status=status, content_type=MEDIA_TYPE)


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """The `EXCEPTION_HANDLER` of the API; None leaves a fault of ours to Django (500)."""
    response = _response(error)
    if response is not None:
        set_rollback()
    return response


def _response(error: Exception) -> Response | None:
    if isinstance(error, InputError):
        return problem(422, f"{error.what} {error.remedy}", **error.as_dict())
    if isinstance(error, Http404):
        return problem(404, "There is nothing here that you may see.")
    if isinstance(error, PermissionDenied):
        return problem(403, str(error) or "Your role does not allow this.")
    if isinstance(error, PydanticValidationError):
        return _invalid({_place(e["loc"]): [e["msg"]] for e in error.errors()})
    if isinstance(error, DjangoValidationError):
        return _invalid(getattr(error, "message_dict", {"": error.messages}))
    if isinstance(error, exceptions.ValidationError):
        detail = error.detail
        return _invalid(detail if isinstance(detail, dict) else {"": detail})
    if isinstance(error, exceptions.APIException):
        response = problem(error.status_code, str(error.detail))
        if wait := getattr(error, "wait", None):
            response["Retry-After"] = str(int(wait))
        if challenge := getattr(error, "auth_header", None):
            response["WWW-Authenticate"] = challenge
        return response
    return None


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _invalid(errors: dict[str, Any]) -> Response:
    detail = "; ".join(
        f"{name}: {_first(said)}" if name else _first(said) for name, said in errors.items()
    )
    return problem(400, detail, code="invalid", errors=errors)


def _first(said: Any) -> str:
    return str(said[0]) if isinstance(said, list) and said else str(said)
