"""Each role on each endpoint of studies, slides, cells and registry, from the permission table.

A member of another study finds nothing (404); a role without the action is refused (403); an
address that no line here names fails the last test.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np
import pytest

from backend.accounts.permissions import PERMISSIONS, Action, Role
from tests.backend.rows import (
    add_full_evaluation,
    add_layer,
    add_model,
    add_slide,
    add_table,
    add_trust,
    add_truth,
)
from tests.ml.io.test_study_planted import TRUTH

APPS = ("studies", "slides", "cells", "registry")


@dataclass(frozen=True)
class Endpoint:
    """An address with {placeholders} of `Things`, and the action that opens it."""

    name: str
    path: str
    action: Action
    method: str = "get"
    body: dict | None = None
    ok: int = 200


ENDPOINTS = [
    Endpoint("api-study", "/api/v1/studies/{slug}/", Action.STUDY_VIEW),
    Endpoint("api-patients", "/api/v1/studies/{slug}/patients/", Action.STUDY_VIEW),
    Endpoint("api-slides", "/api/v1/studies/{slug}/slides/", Action.SLIDE_VIEW),
    Endpoint("api-study-genes", "/api/v1/studies/{slug}/genes/", Action.CELLS_VIEW),
    Endpoint("api-slide", "/api/v1/slides/{slide}/", Action.SLIDE_VIEW),
    Endpoint("api-coordinates", "/api/v1/cell-tables/{table}/coordinates/", Action.CELLS_VIEW),
    Endpoint("api-table-genes", "/api/v1/cell-tables/{table}/genes/", Action.CELLS_VIEW),
    Endpoint(
        "api-measured-expression",
        "/api/v1/cell-tables/{table}/expression/ERBB2/",
        Action.CELLS_VIEW,
    ),
    Endpoint(
        "api-predicted-expression", "/api/v1/layers/{layer}/expression/ERBB2/", Action.CELLS_VIEW
    ),
    Endpoint("api-annotated-types", "/api/v1/cell-tables/{table}/cell-types/", Action.CELLS_VIEW),
    Endpoint("api-layer-annotations", "/api/v1/layers/{trust}/annotations/", Action.CELLS_VIEW),
    Endpoint("api-models", "/api/v1/studies/{slug}/models/", Action.MODEL_VIEW),
    Endpoint("api-model", "/api/v1/models/{model}/", Action.MODEL_VIEW),
    Endpoint(
        "api-evaluation-genes",
        "/api/v1/models/{model}/evaluations/{evaluation}/genes/",
        Action.MODEL_VIEW,
    ),
    Endpoint(
        "api-evaluation-gene",
        "/api/v1/models/{model}/evaluations/{full}/genes/ERBB2/",
        Action.MODEL_VIEW,
    ),
    Endpoint(
        "api-evaluation-file",
        "/api/v1/models/{model}/evaluations/{evaluation}/files/per_gene.csv",
        Action.MODEL_VIEW,
    ),
    Endpoint("api-model-card", "/api/v1/models/{model}/card.md", Action.MODEL_VIEW),
    Endpoint("api-data-card", "/api/v1/models/{model}/data-card.md", Action.MODEL_VIEW),
    Endpoint("api-gate", "/api/v1/studies/{slug}/gate/", Action.MODEL_VIEW),
    Endpoint(
        "api-gate",
        "/api/v1/studies/{slug}/gate/",
        Action.MODEL_PROMOTE,
        "post",
        {"full_report": False},
    ),
    Endpoint(
        "api-evaluate", "/api/v1/models/{model}/evaluate/", Action.MODEL_TRAIN, "post", {}, 202
    ),
    Endpoint(
        "api-promote",
        "/api/v1/models/{model}/promote/",
        Action.MODEL_PROMOTE,
        "post",
        {"reason": "better"},
    ),
    Endpoint(
        "api-train", "/api/v1/studies/{slug}/train/", Action.MODEL_TRAIN, "post", {"epochs": 1}, 202
    ),
    Endpoint(
        "api-predict",
        "/api/v1/studies/{slug}/predict/",
        Action.PREDICT_RUN,
        "post",
        {"model": "{model}", "slides": ["S1"]},
        202,
    ),
]
PAGES = [
    Endpoint("study", "/studies/{slug}/", Action.STUDY_VIEW),
    Endpoint("planted", "/studies/{slug}/planted/", Action.STUDY_VIEW),
    Endpoint("planted-document", "/studies/{slug}/planted/truth.json", Action.STUDY_VIEW),
    Endpoint("cohort", "/studies/{slug}/cohort/", Action.STUDY_VIEW),
    Endpoint("slide", "/slides/{slide}/", Action.SLIDE_VIEW),
    Endpoint("train", "/studies/{slug}/train/", Action.MODEL_TRAIN),
    Endpoint("models", "/studies/{slug}/models/", Action.MODEL_VIEW),
    Endpoint("model", "/models/{model}/", Action.MODEL_VIEW),
    Endpoint("evaluation", "/models/{model}/evaluation/", Action.MODEL_VIEW),
]
# Not of one study: each has tests of its own.
OF_NO_STUDY = {"api-studies", "api-import", "home", "import", "tile", "thumbnail"}


@pytest.fixture
def things(object_store, study):
    table = add_table(add_slide(study), n_rows=40, cell_types=["tumour"] * 40)
    held_out = add_table(add_slide(study, "S2", patient="P2"), n_rows=40)
    # A candidate: it can be promoted once.
    model = add_model(study, {table: "train", held_out: "test"})
    layer = add_layer(table, model, np.ones((40, 4)))
    add_truth(study, TRUTH)
    return {
        "slug": study.slug,
        "slide": table.slide_id,
        "table": table.pk,
        "layer": layer.pk,
        "trust": add_trust(table, model, np.zeros(40)).pk,
        "model": model.pk,
        "evaluation": model.evaluations.get().pk,
        "full": add_full_evaluation(model).pk,
    }


def ask(client, endpoint, things):
    path = endpoint.path.format(**things)
    if endpoint.method == "get":
        return client.get(path)
    body = {
        key: things["model"] if value == "{model}" else value
        for key, value in (endpoint.body or {}).items()
    }
    return client.post(path, body, content_type="application/json")


def answers(client, endpoints, things) -> dict[str, int]:
    return {
        f"{endpoint.method} {endpoint.name}": ask(client, endpoint, things).status_code
        for endpoint in endpoints
    }


@pytest.mark.parametrize("role", Role)
def test_each_role_gets_what_the_table_says(role, things, make_user, client):
    client.force_login(make_user(role))
    assert answers(client, ENDPOINTS + PAGES, things) == {
        f"{endpoint.method} {endpoint.name}": endpoint.ok
        if role in PERMISSIONS[endpoint.action]
        else 403
        for endpoint in ENDPOINTS + PAGES
    }


def test_admins_of_another_study_find_nothing(things, make_user, make_study, client):
    client.force_login(make_user("admin", make_study(), is_staff=True))
    assert set(answers(client, ENDPOINTS + PAGES, things).values()) == {404}


def test_superusers_are_admins_everywhere(things, make_user, client):
    client.force_login(make_user(is_superuser=True))
    assert answers(client, ENDPOINTS + PAGES, things) == {
        f"{endpoint.method} {endpoint.name}": endpoint.ok for endpoint in ENDPOINTS + PAGES
    }


def test_the_api_is_closed_to_who_is_not_signed_in(things, client):
    for endpoint in ENDPOINTS:
        response = ask(client, endpoint, things)
        assert response.status_code == 403, endpoint.name
        assert response["Content-Type"] == "application/problem+json", endpoint.name


def test_pages_send_to_the_login_who_is_not_signed_in(things, client):
    for endpoint in PAGES:
        response = ask(client, endpoint, things)
        assert response.status_code == 302, endpoint.name
        assert response["Location"].startswith("/accounts/login/"), endpoint.name


def test_every_address_is_in_the_matrix():
    named = {endpoint.name for endpoint in ENDPOINTS + PAGES} | OF_NO_STUDY
    there = {
        pattern.name
        for app in APPS
        for module in ("urls", "api_urls")
        if importlib.util.find_spec(f"backend.{app}.{module}")
        for pattern in importlib.import_module(f"backend.{app}.{module}").urlpatterns
    }
    assert there == named
