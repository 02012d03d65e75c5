"""Tests: a database of their own on an embedded PostgreSQL of their own, and fast passwords."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

os.environ.setdefault("PAST_VAR", str(Path(__file__).resolve().parents[3] / "var" / "test"))

from backend.config.postgres import ensure_running

from .base import *  # noqa: F403
from .base import STATIC_ROOT, VAR, database

# Held shared by every test run that uses the server; who gets it alone at the end stops it.
VAR.mkdir(parents=True, exist_ok=True)
TEST_RUN_LOCK = (VAR / "test-run.lock").open("a")
fcntl.flock(TEST_RUN_LOCK, fcntl.LOCK_SH)

DEBUG = False
SECRET_KEY = "only for tests, which hold nothing worth protecting 0123456789"
DATABASES = {
    "default": database(os.environ.get("DATABASE_URL") or ensure_running(VAR, durable=False))
}
DATABASES["default"]["CONN_MAX_AGE"] = 0
# Test runs beside each other share the server, not the database.
DATABASES["default"]["TEST"] = {"NAME": f"test_past_{os.getpid()}"}
BROKER_URL = os.environ.get("BROKER_URL", "")
OBJECT_STORE = os.environ.get("OBJECT_STORE") or str(VAR / "store")
IMPORT_ROOTS = [str(VAR)]
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEMO_USERS = True
WHITENOISE_USE_FINDERS = True
STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # or WhiteNoise warns
