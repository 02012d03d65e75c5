"""What templates need from the front end: built entry points, and numbers and dates that the
browser rewrites for its reader's locale."""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from django import template
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

register = template.Library()


@lru_cache(maxsize=4)
def _read(path: Path, modified_ns: int) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _manifest() -> dict[str, Any]:
    path = settings.ROOT / "frontend" / "dist" / ".vite" / "manifest.json"
    try:
        return _read(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise ImproperlyConfigured(
            f"{path} is missing: build the front end with `npm --prefix frontend run build`."
        ) from None


def _chunks(manifest: dict[str, Any], key: str, seen: dict[str, Any]) -> dict[str, Any]:
    """The chunk and everything it imports statically, imports first."""
    if key not in seen:
        for imported in manifest[key].get("imports", ()):
            _chunks(manifest, imported, seen)
        seen[key] = manifest[key]
    return seen


@register.simple_tag
def vite(name: str) -> SafeString:
    """Tags for `frontend/src/entries/<name>.ts`. File names carry a content hash, so they are
    served under STATIC_URL as they are: a second hash would load shared modules twice."""
    manifest = _manifest()
    key = f"src/entries/{name}.ts"
    if key not in manifest:
        raise ImproperlyConfigured(f"The front end has no entry point {key}; build it again.")
    chunks = _chunks(manifest, key, {})
    styles = dict.fromkeys(css for chunk in chunks.values() for css in chunk.get("css", ()))
    preloads = [chunk["file"] for other, chunk in chunks.items() if other != key]
    static = settings.STATIC_URL
    return format_html(
        "{}{}{}",
        format_html_join(
            "\n", '<link rel="stylesheet" href="{}{}">', ((static, s) for s in styles)
        ),
        format_html_join(
            "\n", '<link rel="modulepreload" href="{}{}">', ((static, p) for p in preloads)
        ),
        format_html('<script type="module" src="{}{}"></script>', static, manifest[key]["file"]),
    )


@register.filter
def number(value: float | None, digits: int | None = None) -> SafeString | str:
    """`{{ n|number }}`, `{{ score|number:2 }}`; an en dash where there is no number."""
    if value is None or value == "":
        return "–"
    text = f"{value:.{digits}f}" if digits is not None else str(value)
    shown = "" if digits is None else digits
    return format_html('<data value="{}" data-number="{}">{}</data>', value, shown, text)


@register.filter
def percent(value: float | None, digits: int = 0) -> str:
    """`{{ share|percent:1 }}`: 0.934 → 93.4 %; an en dash where there is no number."""
    return "–" if value is None or value == "" else f"{100 * value:.{digits}f} %"


@register.filter
def when(value: datetime | str | None) -> SafeString | str:
    """A moment, from a datetime or from ISO text such as serializers give."""
    if not value:
        return "–"
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return format_html(
        '<time datetime="{}">{} UTC</time>', moment.isoformat(), f"{moment:%Y-%m-%d %H:%M}"
    )


@register.filter
def words(name: str) -> str:
    """`colour_ridge` as people write it."""
    return str(name).replace("_", " ")
