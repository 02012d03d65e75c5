"""Entry point of workers: `dramatiq backend.config.worker -Q gpu -p 1 -t 1`."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backend.config.settings.dev")
django.setup()

from backend.jobs.actors import broker  # noqa: E402, F401
