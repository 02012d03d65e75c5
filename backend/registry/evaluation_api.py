"""Evaluations over HTTP: start one, read a gene of it, take it away; the gate of promotions."""

from __future__ import annotations

from django.http import FileResponse, Http404, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from backend.accounts.permissions import Action
from backend.jobs.api import JobSerializer, job_json
from backend.jobs.services import local
from backend.registry import cards, selectors, serializers, services
from backend.registry.evaluations import drawn_gene
from backend.studies.selectors import study_for


class EvaluationGenesView(APIView):
    @extend_schema(responses={200: OpenApiTypes.OBJECT})
    def get(self, request: Request, model_id: int, evaluation_id: int) -> Response:
        """The scores of one evaluation, gene by gene."""
        evaluation = selectors.evaluation_for(request.user, model_id, evaluation_id)
        return Response(
            {
                "part": evaluation.part,
                "label": selectors.held_out_label(evaluation.dataset, evaluation.part),
                "genes": selectors.gene_scores(evaluation),
            }
        )


class EvaluationGeneView(APIView):
    @extend_schema(
        operation_id="v1_models_evaluations_gene_rows", responses={200: OpenApiTypes.OBJECT}
    )
    def get(self, request: Request, model_id: int, evaluation_id: int, symbol: str) -> Response:
        """Rows of one evaluation with a gene's measured and predicted values, to draw."""
        evaluation = selectors.evaluation_for(request.user, model_id, evaluation_id)
        return Response(drawn_gene(evaluation, symbol))


class EvaluationFileView(APIView):
    FILES = {"per_gene.csv": "text/csv", "report.json": "application/json"}

    @extend_schema(responses={(200, "application/octet-stream"): OpenApiTypes.BINARY})
    def get(self, request: Request, model_id: int, evaluation_id: int, name: str) -> FileResponse:
        """A file of one evaluation: `per_gene.csv`, or `report.json` of a full report."""
        evaluation = selectors.evaluation_for(request.user, model_id, evaluation_id)
        path = local(evaluation.artifact) / name
        if name not in self.FILES or not path.is_file():
            raise Http404("This evaluation has no such file.")
        model = evaluation.model_version
        return FileResponse(
            path.open("rb"), as_attachment=True, content_type=self.FILES[name],
            filename=f"{model.study.slug}-v{model.version}-{name}",
        )  # fmt: skip


class EvaluateView(APIView):
    @extend_schema(request=serializers.EvaluateRequestSerializer, responses={202: JobSerializer})
    def post(self, request: Request, model_id: int) -> Response:
        """Make the full report of a model version on the held-out part of its dataset."""
        model = selectors.model_for(request.user, model_id, Action.MODEL_TRAIN)
        job = services.start_evaluation(user=request.user, model=model, params=request.data)
        return Response(job_json(request, job), status=status.HTTP_202_ACCEPTED)


class GateView(APIView):
    @extend_schema(responses=serializers.GateSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """What a model version of the study must show before it can be promoted."""
        study = study_for(request.user, slug, Action.MODEL_VIEW)
        return Response(serializers.GateSerializer(getattr(study, "gate", None)).data)

    @extend_schema(request=serializers.GateSerializer, responses=serializers.GateSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """Set the gate; the change is recorded."""
        study = study_for(request.user, slug, Action.MODEL_PROMOTE)
        gate = services.set_gate(user=request.user, study=study, params=request.data)
        return Response(serializers.GateSerializer(gate).data)


class ModelCardView(APIView):
    @extend_schema(responses={(200, "text/markdown"): OpenApiTypes.STR})
    def get(self, request: Request, model_id: int) -> HttpResponse:
        """The model card as Markdown, made from records."""
        model = selectors.model_for(request.user, model_id)
        return _markdown(cards.model_card(model), f"{model.study.slug}-v{model.version}-card.md")


class DataCardView(APIView):
    @extend_schema(responses={(200, "text/markdown"): OpenApiTypes.STR})
    def get(self, request: Request, model_id: int) -> HttpResponse:
        """The card of the data that a model was trained and tested on, as Markdown."""
        model = selectors.model_for(request.user, model_id)
        name = f"{model.study.slug}-data-v{model.dataset.version}-card.md"
        return _markdown(cards.data_card(model.dataset), name)


def _markdown(text: str, name: str) -> HttpResponse:
    return HttpResponse(
        text, content_type="text/markdown; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )  # fmt: skip
