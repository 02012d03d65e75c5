"""What holds for every address: a login, a Content-Security-Policy, a schema without gaps."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from django.urls import URLPattern, URLResolver, get_resolver

OPEN = {"login", "logout"}
ROOT_NAMES = {"api-docs", "schema"}


def _patterns(resolver: URLResolver, before: str = ""):
    for pattern in resolver.url_patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            if not route.startswith("admin/"):
                yield from _patterns(pattern, route)
        elif isinstance(pattern, URLPattern):
            yield route, pattern.name


def _address(route: str) -> str:
    """An address that the route takes; what it names need not exist."""
    route = re.sub(r"<(?:int|path|uuid):\w+>", "1", route)
    route = re.sub(r"<(?:\w+:)?\w+>", "x", re.sub(r"\(\?!.*?\)", "", route))
    route = re.sub(r"\(\?P<\w+>.*?\)", "x", route).replace("(?Px[-\\w]+)", "x")
    return "/" + route.replace("^", "").replace("$", "").replace("\\Z", "")


ADDRESSES = sorted(
    {(_address(route), name) for route, name in _patterns(get_resolver()) if name not in OPEN}
)


@pytest.mark.parametrize(("address", "name"), ADDRESSES)
def test_nothing_is_open_to_the_anonymous(address, name, client, db):
    answer = client.get(address)
    if answer.status_code == 405:
        answer = client.post(address)
    refused = answer.status_code in (401, 403)
    to_login = answer.status_code == 302 and answer.url.startswith("/accounts/login/")
    assert refused or to_login, (address, answer.status_code)


def test_every_answer_carries_the_policy(client, db):
    for address in ("/", "/api/v1/jobs/", "/accounts/login/"):
        policy = client.get(address)["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy


def test_the_schema_describes_every_endpoint_without_a_warning(db):
    from drf_spectacular.drainage import GENERATOR_STATS
    from drf_spectacular.generators import SchemaGenerator
    from drf_spectacular.validation import validate_schema

    with GENERATOR_STATS.silence():
        schema = SchemaGenerator().get_schema(request=None, public=True)
    validate_schema(schema)
    assert not GENERATOR_STATS._error_cache
    assert not GENERATOR_STATS._warn_cache, list(GENERATOR_STATS._warn_cache)
    assert "/api/v1/jobs/{number}/events/" in schema["paths"]


def test_a_web_process_imports_no_heavy_science():
    """They would cost each worker seconds at start and hundreds of megabytes."""
    code = (
        "import sys, backend.config.wsgi; from django.urls import get_resolver; "
        "get_resolver().url_patterns; "
        "print(sorted({'torch','scanpy','matplotlib','lifelines','sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
