from __future__ import annotations

import pytest
from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.http import Http404
from pydantic import BaseModel, ValidationError
from rest_framework import exceptions

from backend.config.problems import exception_handler
from ml.errors import InputError


class Form(BaseModel):
    epochs: int


def _pydantic() -> ValidationError:
    try:
        Form.model_validate({"epochs": "many"})
    except ValidationError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("slide.no_mpp", "a.tif", "No mpp.", "Give it."), 422),
        (PermissionDenied("Not yours."), 403),
        (Http404("secret"), 404),
        (_pydantic(), 400),
        (DjangoValidationError({"name": ["Too long."]}), 400),
        (DjangoValidationError("Too long."), 400),
        (exceptions.ValidationError({"name": ["Too long."]}), 400),
        (exceptions.ValidationError("Too long."), 400),
        (exceptions.ParseError(), 400),
        (exceptions.NotAuthenticated(), 401),
        (exceptions.MethodNotAllowed("PUT"), 405),
        (exceptions.Throttled(wait=3), 429),
    ],
)
def test_every_error_is_a_problem_detail(error, status, db):
    answer = exception_handler(error, {})
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    assert {"type", "title", "status", "detail"} <= set(answer.data)
    assert answer.data["status"] == status
    assert "secret" not in str(answer.data)


def test_an_input_error_keeps_where_and_remedy(db):
    error = InputError("slide.no_mpp", "slides.csv row 3", "No mpp.", "Give it.")
    data = exception_handler(error, {}).data
    assert data["type"] == "urn:past:problem:slide.no_mpp"
    assert (data["where"], data["what"], data["remedy"]) == (
        "slides.csv row 3", "No mpp.", "Give it.",
    )  # fmt: skip


def test_a_mistake_in_a_form_names_the_field(db):
    data = exception_handler(_pydantic(), {}).data
    assert list(data["errors"]) == ["epochs"]
    assert data["detail"].startswith("epochs: ")


def test_a_fault_of_ours_is_left_to_django():
    assert exception_handler(ZeroDivisionError(), {}) is None


def test_over_http(client, make_user):
    client.force_login(make_user())
    answer = client.get("/api/v1/jobs/404/")
    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == 404
