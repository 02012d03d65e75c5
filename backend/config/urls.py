"""Pages of each app from its urls.py, its API from api_urls.py under /api/v1/."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

PAGES = ("accounts", "studies", "jobs", "slides", "registry", "survival")
API = ("accounts", "studies", "jobs", "cells", "registry", "survival")

urlpatterns = [
    *(path("", include(f"backend.{app}.urls")) for app in PAGES),
    *(path("api/v1/", include(f"backend.{app}.api_urls")) for app in API),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", login_required(SpectacularSwaggerSplitView.as_view()), name="api-docs"),
    path("admin/", admin.site.urls),
]
