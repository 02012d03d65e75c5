"""Pages of each app from its urls.py, its API from api_urls.py under /api/v1/."""

from __future__ import annotations

import importlib.util

from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

APPS = ("accounts", "studies", "jobs", "slides", "cells", "registry", "survival")


def _includes(prefix: str, module: str) -> list:
    return [
        path(prefix, include(f"backend.{app}.{module}"))
        for app in APPS
        if importlib.util.find_spec(f"backend.{app}.{module}")
    ]


urlpatterns = [
    *_includes("", "urls"),
    *_includes("api/v1/", "api_urls"),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", login_required(SpectacularSwaggerSplitView.as_view()), name="api-docs"),
    path("admin/", admin.site.urls),
]
