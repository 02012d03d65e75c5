"""Slides with their layers, models, and the jobs that make them, over HTTP."""

from __future__ import annotations

from django.http.response import HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from backend.accounts.permissions import Action
from backend.cells.annotations import layer_annotations
from backend.cells.answers import arrow_answer
from backend.cells.api import ARROW, VERSION, ArrowView, tag
from backend.cells.expression import predicted_column
from backend.cells.selectors import ANNOTATIONS, layer_for
from backend.jobs.api import JobSerializer, job_json
from backend.jobs.models import Job
from backend.registry import selectors, serializers, services
from backend.registry.slide_selectors import model_name, slide_document, slide_documents
from backend.slides.selectors import slide_for, slides_of
from backend.studies.selectors import study_for


class SlideListView(ListAPIView):
    serializer_class = serializers.SlideSummarySerializer

    def get(self, request: Request, slug: str) -> Response:
        """A study's slides with their cell tables and layers."""
        study = study_for(request.user, slug, Action.SLIDE_VIEW)
        page = self.paginate_queryset(slides_of(study))
        documents = slide_documents(page, request.user)
        return self.get_paginated_response(self.get_serializer(documents, many=True).data)


class SlideDetailView(APIView):
    @extend_schema(responses=serializers.SlideSerializer)
    def get(self, request: Request, slide_id: int) -> Response:
        """One slide: sizes, resolution, where its tiles are, its cell tables and layers."""
        document = slide_document(slide_for(request.user, slide_id), request.user)
        return Response(serializers.SlideSerializer(document).data)


class PredictedExpressionView(ArrowView):
    @extend_schema(parameters=[VERSION], responses=ARROW)
    def get(self, request: Request, layer_id: int, symbol: str) -> HttpResponseBase:
        """Predicted expression of a gene: column `value` (uint8), scale and offset in metadata."""
        layer = layer_for(request.user, layer_id)
        name = model_name(layer)

        def content() -> bytes | None:
            column = predicted_column(layer, symbol, name)
            return column.arrow() if column else None

        parts = (layer.artifact.sha256, layer.table.artifact.sha256, tag(symbol), tag(name))
        return arrow_answer(request, parts, content)


class LayerAnnotationsView(ArrowView):
    @extend_schema(parameters=[VERSION], responses=ARROW)
    def get(self, request: Request, layer_id: int) -> HttpResponseBase:
        """Predicted types (`codes`, `probability`) or trust (`ood`) of each row, uint8."""
        layer = layer_for(request.user, layer_id, kinds=ANNOTATIONS)
        name = model_name(layer)
        return arrow_answer(
            request,
            (layer.artifact.sha256, tag(name)),
            lambda: layer_annotations(layer, name),
        )


class ModelListView(ListAPIView):
    serializer_class = serializers.ModelSerializer

    def get(self, request: Request, slug: str) -> Response:
        """A study's model versions, newest first."""
        study = study_for(request.user, slug, Action.MODEL_VIEW)
        page = self.paginate_queryset(selectors.models_of(study))
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


class ModelDetailView(APIView):
    @extend_schema(responses=serializers.ModelDetailSerializer)
    def get(self, request: Request, model_id: int) -> Response:
        """One model version: metrics, configuration, dataset, who it has seen, promotions."""
        model = selectors.model_for(request.user, model_id)
        return Response(serializers.ModelDetailSerializer(model).data)


class PromoteView(APIView):
    @extend_schema(
        request=serializers.PromoteRequestSerializer, responses=serializers.ModelDetailSerializer
    )
    def post(self, request: Request, model_id: int) -> Response:
        """Make this the model version that its study uses."""
        model = selectors.model_for(request.user, model_id, Action.MODEL_PROMOTE)
        asked = serializers.PromoteRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        services.promote(user=request.user, model=model, reason=asked.validated_data["reason"])
        fresh = selectors.model_for(request.user, model_id)
        return Response(serializers.ModelDetailSerializer(fresh).data)


class ImportView(APIView):
    @extend_schema(request=serializers.ImportRequestSerializer, responses={202: JobSerializer})
    def post(self, request: Request) -> Response:
        """Import a study from a folder on the server; staff only."""
        return _accepted(request, services.request_import(user=request.user, params=request.data))


class TrainView(APIView):
    @extend_schema(request=serializers.TrainRequestSerializer, responses={202: JobSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Train a model on the study's measured slides."""
        study = study_for(request.user, slug, Action.MODEL_TRAIN)
        job = services.start_training(user=request.user, study=study, params=request.data)
        return _accepted(request, job)


class PredictView(APIView):
    @extend_schema(request=serializers.PredictRequestSerializer, responses={202: JobSerializer})
    def post(self, request: Request, slug: str) -> Response:
        """Predict expression on slides of the study with one of its models."""
        study = study_for(request.user, slug, Action.PREDICT_RUN)
        job = services.start_prediction(user=request.user, study=study, params=request.data)
        return _accepted(request, job)


def _accepted(request: Request, job: Job) -> Response:
    return Response(job_json(request, job), status=status.HTTP_202_ACCEPTED)
