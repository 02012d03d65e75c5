from __future__ import annotations

import os
import subprocess
import sys

import pytest

GOOD = {
    "DATABASE_URL": "postgresql://past:secret@db/past",
    "BROKER_URL": "amqp://broker",
    "OBJECT_STORE": "s3://bucket/past",
    "SECRET_KEY": "a" * 25 + "b" * 30,
    "ALLOWED_HOSTS": "past.example.org",
}


def _load(settings: str, show: str, tmp_path, **environment: str) -> subprocess.CompletedProcess:
    """Import the settings in a process of their own and print `show`."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"from backend.config.settings import {settings} as s; print({show})",
        ],
        env={**kept, "PAST_VAR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
    )


def test_production_starts_with_everything_set_and_is_strict(tmp_path):
    show = (
        "s.DEBUG, s.SECURE_SSL_REDIRECT, s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE, "
        "s.SECURE_HSTS_SECONDS > 0, s.DEMO_USERS, s.ALLOWED_HOSTS, "
        "'Manifest' in s.STORAGES['staticfiles']['BACKEND']"
    )
    loaded = _load("production", show, tmp_path, **GOOD)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip() == ("False True True True True False ['past.example.org'] True")


@pytest.mark.parametrize("missing", GOOD)
def test_production_names_what_is_missing(missing, tmp_path):
    environment = {name: value for name, value in GOOD.items() if name != missing}
    refused = _load("production", "1", tmp_path, **environment)
    assert refused.returncode != 0
    assert f"{missing} is not set" in refused.stderr
    assert not any(f"{other} is not set" in refused.stderr for other in environment)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("SECRET_KEY", "short", "too short"), ("ALLOWED_HOSTS", "*", "name the hosts")],
)
def test_production_refuses_what_is_unsafe(name, value, told, tmp_path):
    refused = _load("production", "1", tmp_path, **{**GOOD, name: value})
    assert refused.returncode != 0
    assert told in refused.stderr


def test_production_refuses_the_key_of_development(tmp_path):
    (tmp_path / "secret_key").write_text(GOOD["SECRET_KEY"])
    refused = _load("production", "1", tmp_path, **GOOD)
    assert refused.returncode != 0
    assert "development" in refused.stderr


def test_development_makes_a_key_once_and_takes_the_environment(tmp_path):
    url = {"DATABASE_URL": GOOD["DATABASE_URL"]}
    first = _load("dev", "s.SECRET_KEY", tmp_path, **url)
    again = _load("dev", "s.SECRET_KEY", tmp_path, **url)
    assert first.returncode == 0, first.stderr
    assert len(first.stdout.strip()) >= 50
    assert again.stdout == first.stdout
    assert (tmp_path / "secret_key").stat().st_mode & 0o077 == 0
    show = "s.SECRET_KEY, s.OBJECT_STORE, s.BROKER_URL, s.DATABASES['default']['HOST'], s.DEBUG"
    given = _load("dev", show, tmp_path, **GOOD)
    assert given.stdout.split() == [
        GOOD["SECRET_KEY"], GOOD["OBJECT_STORE"], GOOD["BROKER_URL"], "db", "False"
    ]  # fmt: skip
