"""Production: nothing that matters has a default. README lists the variables."""

from __future__ import annotations

import os

from django.core.exceptions import ImproperlyConfigured

from .base import *  # noqa: F403
from .base import VAR, database, listed

_REQUIRED = {
    "DATABASE_URL": "the PostgreSQL database, postgresql://user:password@host/name",
    "BROKER_URL": "the broker, amqp://… for RabbitMQ or the URL of a PostgreSQL database",
    "OBJECT_STORE": "where artifacts live, a folder or a URL such as s3://bucket/prefix",
    "SECRET_KEY": "at least 50 random characters, kept secret",
    "ALLOWED_HOSTS": "host names under which the application is reached, separated by commas",
}


def _required() -> dict[str, str]:
    values = {name: os.environ.get(name, "").strip() for name in _REQUIRED}
    faults = [f"{name} is not set: {_REQUIRED[name]}." for name in _REQUIRED if not values[name]]
    key = values["SECRET_KEY"]
    development = VAR / "secret_key"
    if key and len(key) < 50:
        faults.append("SECRET_KEY is too short: " + _REQUIRED["SECRET_KEY"] + ".")
    if key and development.exists() and development.read_text() == key:
        faults.append("SECRET_KEY is the one that development made; generate another.")
    if "*" in values["ALLOWED_HOSTS"].split(","):
        faults.append("ALLOWED_HOSTS may not be *: name the hosts.")
    if faults:
        raise ImproperlyConfigured("Production settings refuse to start:\n  " + "\n  ".join(faults))
    return values


_values = _required()
DEBUG = False
SECRET_KEY = _values["SECRET_KEY"]
DATABASES = {"default": database(_values["DATABASE_URL"])}
BROKER_URL = _values["BROKER_URL"]
OBJECT_STORE = _values["OBJECT_STORE"]
ALLOWED_HOSTS = listed("ALLOWED_HOSTS")
IMPORT_ROOTS = listed("IMPORT_ROOTS", os.pathsep)  # none: nothing can be imported by path
CSRF_TRUSTED_ORIGINS = listed("CSRF_TRUSTED_ORIGINS")

SECURE_SSL_REDIRECT = True
SECURE_HSTS_SECONDS = 365 * 24 * 3600
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
if os.environ.get("TRUST_FORWARDED_PROTO") == "1":  # only behind a proxy that sets the header
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
