"""Jobs over HTTP."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_field,
)
from rest_framework import serializers, status
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from backend.jobs import selectors, services
from backend.jobs.models import Job, JobEvent


class FailureSerializer(serializers.Serializer):
    code = serializers.CharField()
    where = serializers.CharField()
    what = serializers.CharField()
    remedy = serializers.CharField()


class JobSerializer(serializers.ModelSerializer):
    study = serializers.SlugRelatedField("slug", read_only=True, allow_null=True)
    created_by = serializers.CharField(source="created_by.display_name", default=None)
    queue_position = serializers.SerializerMethodField()
    eta_seconds = serializers.SerializerMethodField(
        help_text="Left in the current stage, at its pace so far."
    )
    failure = serializers.SerializerMethodField()
    last_seq = serializers.IntegerField(help_text="Number of the newest event.")
    may_cancel = serializers.SerializerMethodField()
    url = serializers.SerializerMethodField(help_text="Of the job's page.")

    class Meta:
        model = Job
        fields = (
            "id", "kind", "title", "study", "status", "stage", "progress", "attempt", "queue",
            "queue_position", "created_at", "started_at", "finished_at", "created_by",
            "failure_kind", "failure", "parameters", "result", "eta_seconds", "last_seq",
            "may_cancel", "url",
        )  # fmt: skip

    def get_queue_position(self, job: Job) -> int | None:
        return selectors.queue_position(job)

    def get_eta_seconds(self, job: Job) -> float | None:
        return selectors.eta_seconds(job)

    @extend_schema_field(FailureSerializer)
    def get_failure(self, job: Job) -> dict[str, str]:
        return job.failure  # {} unless the job failed

    def get_may_cancel(self, job: Job) -> bool:
        return selectors.may_cancel(self.context["request"].user, job)

    def get_url(self, job: Job) -> str:
        return f"/jobs/{job.pk}/"


def job_json(request: Request, job: Job) -> dict:
    """The job as every answer shows it, read anew."""
    fresh = selectors.job_for(request.user, job.pk)
    return JobSerializer(fresh, context={"request": request}).data


class JobEventSerializer(serializers.ModelSerializer):
    class Meta:
        model = JobEvent
        fields = ("seq", "at", "kind", "data")


class JobEventsSerializer(serializers.Serializer):
    job = JobSerializer()
    events = JobEventSerializer(many=True)


class JobListView(ListAPIView):
    """The jobs of the user's studies, newest first."""

    serializer_class = JobSerializer

    @extend_schema(
        parameters=[
            OpenApiParameter("study", OpenApiTypes.STR, description="Slug of a study."),
            OpenApiParameter("status", OpenApiTypes.STR, many=True, enum=Job.Status.values),
        ]
    )
    def get(self, request: Request) -> Response:
        return super().get(request)

    def get_queryset(self):
        if getattr(self, "swagger_fake_view", False):
            return Job.objects.none()
        query = self.request.query_params
        jobs = selectors.jobs_for(self.request.user, statuses=query.getlist("status"))
        return jobs.filter(study__slug=query["study"]) if "study" in query else jobs


class JobDetailView(APIView):
    @extend_schema(responses=JobSerializer)
    def get(self, request: Request, number: int) -> Response:
        """One job."""
        job = selectors.job_for(request.user, number)
        return Response(JobSerializer(job, context={"request": request}).data)


class JobCancelView(APIView):
    @extend_schema(request=None, responses={202: JobSerializer})
    def post(self, request: Request, number: int) -> Response:
        """Stop a job: at once where it waits, within seconds where it runs."""
        job = selectors.job_for(request.user, number)
        services.cancel_job(user=request.user, job=job)
        return Response(job_json(request, job), status=status.HTTP_202_ACCEPTED)


class JobEventsView(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("after", OpenApiTypes.INT, description="Default 0.")],
        responses={200: JobEventsSerializer, 304: OpenApiResponse(description="Nothing new.")},
    )
    def get(self, request: Request, number: int) -> Response:
        """The events after number `after`, at most 1,000, and the job as it is now."""
        after = request.query_params.get("after", "0")
        if not after.isdecimal():
            raise ValidationError({"after": ["The number of the last event you have, or 0."]})
        job = selectors.job_for(request.user, number)
        if job.last_seq <= int(after):
            return Response(status=status.HTTP_304_NOT_MODIFIED)
        answer = {"job": job, "events": selectors.events_after(job, int(after))}
        return Response(JobEventsSerializer(answer, context={"request": request}).data)
