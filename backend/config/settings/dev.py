"""Demos, development and a single lab machine: everything has a default, nothing needs installing.

Environment: DATABASE_URL (default: the embedded PostgreSQL), BROKER_URL (default: that database),
OBJECT_STORE, SECRET_KEY, IMPORT_ROOTS, ALLOWED_HOSTS, PAST_VAR, PAST_DEBUG.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile

from backend.config.postgres import ensure_running

from .base import *  # noqa: F403
from .base import ROOT, STATIC_ROOT, VAR, database, listed


def _secret_key() -> str:
    """The key of this installation, made on first use (whole or not at all: processes race)."""
    path = VAR / "secret_key"
    if not path.exists():
        VAR.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=VAR) as new, contextlib.suppress(FileExistsError):
            new.write(secrets.token_urlsafe(50))
            new.flush()
            path.hardlink_to(new.name)
    return path.read_text()


DEBUG = os.environ.get("PAST_DEBUG") == "1"
SECRET_KEY = os.environ.get("SECRET_KEY") or _secret_key()
EMBEDDED_POSTGRES = not os.environ.get("DATABASE_URL")
DATABASES = {"default": database(os.environ.get("DATABASE_URL") or ensure_running(VAR))}
BROKER_URL = os.environ.get("BROKER_URL", "")
OBJECT_STORE = os.environ.get("OBJECT_STORE") or str(VAR / "store")
IMPORT_ROOTS = listed("IMPORT_ROOTS", os.pathsep) or [str(ROOT.parent), str(VAR)]
ALLOWED_HOSTS = listed("ALLOWED_HOSTS") or ["localhost", "127.0.0.1", "[::1]"]

DEMO_USERS = True
# Static files are served from where they are built, without collectstatic.
WHITENOISE_USE_FINDERS = True
STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # or WhiteNoise warns
