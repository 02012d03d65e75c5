"""Survival analyses over HTTP. All of it is for investigators and admins of a study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import Http404, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from backend.accounts.permissions import Action
from backend.jobs.api import JobSerializer, job_json
from backend.studies.selectors import study_for
from backend.survival import selectors, services
from backend.survival.landing import study_figure
from backend.survival.questions import FitParams, KaplanMeierRequest, SaveParams
from ml.tasks import survival_figure, survival_report
from ml.tasks.survival_analysis import Analysis

QUERY = [
    OpenApiParameter("endpoint", OpenApiTypes.STR, required=True, description="Endpoint code."),
    OpenApiParameter("source", OpenApiTypes.STR, description="Of the stratifier.",
                     enum=["clinical", "measured", "predicted", "risk"]),
    OpenApiParameter("table", OpenApiTypes.INT, description="Patient table id."),
    OpenApiParameter("name", OpenApiTypes.STR, description="Clinical column, gene or feature."),
    OpenApiParameter("cut", OpenApiTypes.STR,
                     enum=["median", "tertiles", "quartiles", "value", "levels"]),
    OpenApiParameter("value", OpenApiTypes.FLOAT, description="Cut-off, with cut=value."),
    OpenApiParameter("levels", OpenApiTypes.STR, many=True, description="Only these levels."),
    OpenApiParameter("horizon", OpenApiTypes.FLOAT, description="Months."),
    OpenApiParameter("landmark", OpenApiTypes.FLOAT, description="Months."),
    OpenApiParameter("causes", OpenApiTypes.INT, many=True, description="Default: any cause."),
    OpenApiParameter("include_training", OpenApiTypes.BOOL),
]  # fmt: skip


class StratifierSerializer(serializers.Serializer):
    source = serializers.CharField()
    table = serializers.IntegerField(allow_null=True)
    table_name = serializers.CharField()
    name = serializers.CharField()
    label = serializers.CharField()
    unit = serializers.CharField()
    model = serializers.CharField(help_text="Model version behind it; empty for measured values.")
    numeric = serializers.BooleanField()
    levels = serializers.ListField(child=serializers.CharField())


class StratifiersSerializer(serializers.Serializer):
    total = serializers.IntegerField(help_text="All that match, shown or not.")
    results = StratifierSerializer(many=True)


class SavedAnalysisSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    name = serializers.CharField()
    request = serializers.DictField()
    query = serializers.CharField(help_text="The dashboard's address parameters.")
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    deletable = serializers.BooleanField()


class KaplanMeierView(APIView):
    @extend_schema(request=KaplanMeierRequest, responses={200: OpenApiTypes.OBJECT})
    def post(self, request: Request, slug: str) -> Response:
        """Curves, figure, at-risk table, log-rank, hazard ratios, exclusions, methods."""
        study = study_for(request.user, slug, Action.SURVIVAL_VIEW)
        asked = KaplanMeierRequest.model_validate(request.data)
        return Response(analysis_json(selectors.analysis_of(study, asked), asked))


class StudyFigureView(APIView):
    @extend_schema(responses={200: OpenApiTypes.OBJECT})
    def get(self, request: Request, slug: str) -> Response:
        """The curve that the study's own page shows; answers as a Kaplan–Meier request does."""
        study = study_for(request.user, slug, Action.SURVIVAL_VIEW)
        found = study_figure(study)
        if found is None:
            raise Http404("This study has no outcomes with events.")
        asked, analysis = found
        return Response(analysis_json(analysis, asked))


def analysis_json(analysis: Analysis, asked: KaplanMeierRequest) -> dict[str, Any]:
    stratifier = analysis.question.stratifier
    return survival_report.as_json(analysis) | {
        "figure": survival_figure.plotly_figure(analysis),
        "request": asked.model_dump(mode="json"),
        "cut": str(analysis.question.cut),
        "query": asked.query(),
        "stratifier": stratifier
        and {
            "source": stratifier.source,
            "name": stratifier.name,
            "label": stratifier.label,
            "unit": stratifier.unit,
            "numeric": stratifier.numeric,
            "levels": list(stratifier.levels),
            "table_name": stratifier.table,
            "model": stratifier.model,
        },
    }


class _FileRenderer(BaseRenderer):
    """Lets a browser ask for the file; the views write it, problem details come as JSON."""

    charset = "utf-8"

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return JSONRenderer().render(data)


class CsvRenderer(_FileRenderer):
    media_type = "text/csv"
    format = "csv"


class SvgRenderer(_FileRenderer):
    media_type = "image/svg+xml"
    format = "svg"


class _ExportView(APIView):
    def export(self, request: Request, slug: str, write: Callable[[Analysis], str]) -> HttpResponse:
        study = study_for(request.user, slug, Action.SURVIVAL_VIEW)
        asked = KaplanMeierRequest.from_query(request.query_params)
        analysis = selectors.analysis_of(study, asked)
        kind: type[BaseRenderer] = self.renderer_classes[0]
        by = f"-{asked.stratifier.name}" if asked.stratifier else ""
        name = "".join(c if c.isalnum() or c in "-_" else "_" for c in f"{asked.endpoint}{by}")
        return HttpResponse(
            write(analysis),
            content_type=f"{kind.media_type}; charset=utf-8",
            headers={
                "Content-Disposition": f'attachment; filename="{study.slug}-{name}.{kind.format}"',
                "Cache-Control": "private, no-store",
            },
        )


class KaplanMeierCsvView(_ExportView):
    renderer_classes = (CsvRenderer, JSONRenderer)

    @extend_schema(parameters=QUERY, responses={(200, "text/csv"): OpenApiTypes.STR})
    def get(self, request: Request, slug: str) -> HttpResponse:
        """The life tables of the strata as CSV; comment lines (#) say what they are."""
        return self.export(request, slug, survival_report.as_csv)


class KaplanMeierSvgView(_ExportView):
    renderer_classes = (SvgRenderer, JSONRenderer)

    @extend_schema(parameters=QUERY, responses={(200, "image/svg+xml"): OpenApiTypes.STR})
    def get(self, request: Request, slug: str) -> HttpResponse:
        """The figure with its at-risk table as SVG."""
        return self.export(request, slug, survival_figure.svg)


class StratifierListView(APIView):
    @extend_schema(
        parameters=[OpenApiParameter("search", OpenApiTypes.STR, description="Part of a name.")],
        responses=StratifiersSerializer,
    )
    def get(self, request: Request, slug: str) -> Response:
        """What the cohort can be divided by: clinical columns, risks, genes."""
        study = study_for(request.user, slug, Action.SURVIVAL_VIEW)
        found = selectors.stratifiers(study, request.query_params.get("search", "").strip())
        return Response(StratifiersSerializer(found).data)


class SavedAnalysisListView(APIView):
    @extend_schema(responses=SavedAnalysisSerializer(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """Saved analyses, newest first."""
        study = study_for(request.user, slug, Action.SURVIVAL_VIEW)
        saved = selectors.saved_analyses(request.user, study)
        documents = [selectors.saved_json(request.user, study, one) for one in saved]
        return Response(SavedAnalysisSerializer(documents, many=True).data)

    @extend_schema(request=SaveParams, responses={201: SavedAnalysisSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Keep a request under a name. Its numbers are computed anew whenever it is opened."""
        study = study_for(request.user, slug, Action.SURVIVAL_SAVE)
        asked = SaveParams.model_validate(request.data)
        saved = services.save_analysis(
            user=request.user, study=study, name=asked.name, request=asked.request
        )
        document = selectors.saved_json(request.user, study, saved)
        return Response(SavedAnalysisSerializer(document).data, status=status.HTTP_201_CREATED)


class SavedAnalysisView(APIView):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, slug: str, analysis_id: int) -> Response:
        """Delete a saved analysis: one's own, or any as an admin of the study."""
        study = study_for(request.user, slug, Action.SURVIVAL_SAVE)
        saved = selectors.saved_analysis(request.user, study, analysis_id)
        services.delete_analysis(user=request.user, analysis=saved)
        return Response(status=status.HTTP_204_NO_CONTENT)


class FitView(APIView):
    @extend_schema(request=FitParams, responses={202: JobSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Start fitting a Cox risk model; its out-of-fold risks become a stratifier."""
        study = study_for(request.user, slug, Action.SURVIVAL_FIT)
        job = services.start_fit(user=request.user, study=study, params=request.data)
        return Response(job_json(request, job), status=status.HTTP_202_ACCEPTED)
