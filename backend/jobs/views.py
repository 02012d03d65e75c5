"""Pages: the list of jobs, and one job, which then follows itself through the API."""

from __future__ import annotations

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from backend.jobs import selectors
from backend.jobs.api import JobSerializer
from backend.studies.selectors import allowed_actions


@require_safe
def jobs(request: HttpRequest) -> HttpResponse:
    pages = Paginator(selectors.jobs_for(request.user), 50)
    page = pages.get_page(request.GET.get("page"))
    listed = JobSerializer(page.object_list, many=True, context={"request": request}).data
    context = {"jobs": page.object_list, "jobs_page": page, "study": None, "page": {"jobs": listed}}
    return render(request, "jobs/jobs.html", context)


@require_safe
def job(request: HttpRequest, number: int) -> HttpResponse:
    found = selectors.job_for(request.user, number)
    shown = JobSerializer(found, context={"request": request}).data
    context = {
        "job": found,
        "study": found.study,
        "role": found.role,
        "allowed": allowed_actions(found.role),
        "may_cancel": shown["may_cancel"],
        "page": {"job": shown},
    }
    return render(request, "jobs/job.html", context)
