"""Cell tables over HTTP: coordinates once, then one uint8 column per gene, as Arrow streams."""

from __future__ import annotations

from django.http.response import HttpResponseBase
from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from backend.accounts.permissions import Action
from backend.cells import selectors
from backend.cells.annotations import annotated_types
from backend.cells.answers import arrow_answer
from backend.cells.expression import ARROW_STREAM, coordinates, measured_column
from backend.cells.models import CellTable
from backend.studies.selectors import study_for

SEARCH = OpenApiParameter("search", OpenApiTypes.STR, description="Part of the gene symbol.")
LIMIT = OpenApiParameter("limit", OpenApiTypes.INT, description="At most so many; default all.")
VERSION = OpenApiParameter(
    "v", OpenApiTypes.STR, description="First digits of the artifact's hash: cached for good."
)
ARROW = {(200, ARROW_STREAM): OpenApiTypes.BINARY}


class ArrowRenderer(BaseRenderer):
    """Lets clients ask for Arrow by the Accept header; the views build the stream themselves."""

    media_type = ARROW_STREAM
    format = "arrow"
    render_style = "binary"

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return JSONRenderer().render(data)  # only problem details come this way


class ArrowView(APIView):
    renderer_classes = (JSONRenderer, ArrowRenderer)


class TableGeneSerializer(serializers.Serializer):
    symbol = serializers.CharField()
    measured = serializers.BooleanField()
    layers = serializers.ListField(child=serializers.IntegerField(), help_text="Layer ids.")


class TableGenesSerializer(serializers.Serializer):
    total = serializers.IntegerField()
    genes = TableGeneSerializer(many=True)


class StudyGeneSerializer(serializers.Serializer):
    symbol = serializers.CharField()
    measured = serializers.BooleanField()
    predicted = serializers.BooleanField()


class LimitSerializer(serializers.Serializer):
    search = serializers.CharField(default="", allow_blank=True)
    limit = serializers.IntegerField(default=None, min_value=1)


class CoordinatesView(ArrowView):
    @extend_schema(parameters=[VERSION], responses=ARROW)
    def get(self, request: Request, table_id: int) -> HttpResponseBase:
        """x and y of every row: float32, level-0 pixels, in row order."""
        table = selectors.table_for(request.user, table_id)
        return arrow_answer(
            request, (table.artifact.sha256, "coordinates"), lambda: coordinates(table)
        )


class MeasuredExpressionView(ArrowView):
    @extend_schema(
        parameters=[
            OpenApiParameter(
                "layer", OpenApiTypes.INT, description="Scale by the genes shared with this layer."
            ),
            VERSION,
        ],
        responses=ARROW,
    )
    def get(self, request: Request, table_id: int, symbol: str) -> HttpResponseBase:
        """Measured expression of a gene: column `value` (uint8), scale and offset in metadata."""
        table = selectors.table_for(request.user, table_id)
        layer = None
        if "layer" in request.query_params:
            layer_id = serializers.IntegerField().run_validation(request.query_params["layer"])
            layer = selectors.layer_for(request.user, layer_id, table=table)

        def content() -> bytes | None:
            column = measured_column(table, symbol, layer)
            return column.arrow() if column else None

        shared = layer.panel_hash if layer else "own panel"
        return arrow_answer(request, (table.artifact.sha256, tag(symbol), tag(shared)), content)


class AnnotatedTypesView(ArrowView):
    @extend_schema(parameters=[VERSION], responses=ARROW)
    def get(self, request: Request, table_id: int) -> HttpResponseBase:
        """Types that somebody gave the rows: column `codes` (uint8), names in metadata."""
        table = selectors.table_for(request.user, table_id)
        parts = (table.artifact.sha256, "types")
        return arrow_answer(request, parts, lambda: annotated_types(table))


class TableGenesView(APIView):
    @extend_schema(parameters=[SEARCH, LIMIT], responses=TableGenesSerializer)
    def get(self, request: Request, table_id: int) -> Response:
        """Genes of a cell table, measured or predicted."""
        table = selectors.table_for(request.user, table_id)
        search, limit = _search(request)
        genes = selectors.table_genes(table, search)
        return Response({"total": len(genes), "genes": genes[:limit]})


class StudyGenesView(APIView):
    @extend_schema(parameters=[SEARCH, LIMIT], responses=StudyGeneSerializer(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """Genes of a study, measured or predicted on some slide."""
        study = study_for(request.user, slug, Action.CELLS_VIEW)
        search, limit = _search(request)
        return Response(selectors.study_genes(study, search)[:limit])


def coordinates_url(table: CellTable) -> str:
    address = reverse("api-coordinates", args=[table.pk])
    return f"{address}?v={table.artifact.sha256[:16]}"


def _search(request: Request) -> tuple[str, int | None]:
    asked = LimitSerializer(data=request.query_params)
    asked.is_valid(raise_exception=True)
    return asked.validated_data["search"], asked.validated_data["limit"]


def tag(text: str) -> str:
    """Text for an entity tag, which is ASCII without quotes."""
    return text.encode().hex()
