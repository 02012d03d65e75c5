"""The worker's entry point with the toy kind added."""

from backend.config.worker import broker  # noqa: F401
from tests.backend.jobs import toy

toy.register()
