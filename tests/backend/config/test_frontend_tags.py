"""Tags and filters of the templates: built files in order, numbers and dates for the reader."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.template import Context, Template
from django.template.loader import render_to_string

MANIFEST = {
    "_api-1.js": {"file": "assets/api-1.js", "css": ["assets/api-1.css"]},
    "_dom-2.js": {"file": "assets/dom-2.js", "imports": ["_api-1.js"]},
    "src/entries/viewer.ts": {
        "file": "assets/viewer-3.js",
        "imports": ["_dom-2.js", "_api-1.js"],
        "css": ["assets/viewer-3.css"],
    },
}


def render(text: str, **context: object) -> str:
    return Template("{% load frontend %}" + text).render(Context(context))


@pytest.fixture
def manifest(tmp_path: Path, settings) -> Path:
    settings.ROOT = tmp_path
    settings.STATIC_URL = "/files/"
    path = tmp_path / "frontend" / "dist" / ".vite" / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(MANIFEST))
    return path


def test_an_entry_brings_its_styles_and_what_it_imports_once(manifest: Path) -> None:
    assert render('{% vite "viewer" %}').split("\n") == [
        '<link rel="stylesheet" href="/files/assets/api-1.css">',
        '<link rel="stylesheet" href="/files/assets/viewer-3.css">'
        '<link rel="modulepreload" href="/files/assets/api-1.js">',
        '<link rel="modulepreload" href="/files/assets/dom-2.js">'
        '<script type="module" src="/files/assets/viewer-3.js"></script>',
    ]


def test_an_unknown_entry_is_named(manifest: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"src/entries/jobs\.ts"):
        render('{% vite "jobs" %}')


def test_a_front_end_that_was_not_built_says_how_to(manifest: Path) -> None:
    manifest.unlink()
    with pytest.raises(ImproperlyConfigured, match="npm --prefix frontend run build"):
        render('{% vite "viewer" %}')


@pytest.mark.parametrize(
    ("template", "value", "shown"),
    [
        ("{{ v|number }}", 15706, '<data value="15706" data-number="">15706</data>'),
        ("{{ v|number:2 }}", 0.2756, '<data value="0.2756" data-number="2">0.28</data>'),
        ("{{ v|number:2 }}", 0.0, '<data value="0.0" data-number="2">0.00</data>'),
        ("{{ v|number:2 }}", None, "–"),
        ("{{ v.missing|number:2 }}", {}, "–"),
        ("{{ v|words }}", "colour_ridge", "colour ridge"),
        ("{{ v|when }}", None, "–"),
    ],
)
def test_numbers_and_names(template: str, value: object, shown: str) -> None:
    assert render(template, v=value) == shown


@pytest.mark.parametrize(
    "moment", [datetime(2026, 11, 23, 18, 5, tzinfo=UTC), "2026-11-23T18:05:00Z"]
)
def test_a_moment_is_rewritten_for_the_reader_and_readable_without(moment: object) -> None:
    assert render("{{ v|when }}", v=moment) == (
        '<time datetime="2026-11-23T18:05:00+00:00">2026-11-23 18:05 UTC</time>'
    )


@pytest.mark.parametrize("name", ["500.html", "403_csrf.html"])
def test_error_pages_need_neither_a_request_nor_the_build(name: str, manifest: Path) -> None:
    manifest.unlink()
    assert "Research use only" in render_to_string(name)
