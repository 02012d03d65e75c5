"""Studies and patients over HTTP."""

from __future__ import annotations

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from backend.studies import selectors
from backend.studies.models import Study


class StudySerializer(serializers.ModelSerializer):
    role = serializers.CharField()
    n_patients = serializers.IntegerField()
    n_slides = serializers.IntegerField()
    n_models = serializers.IntegerField()

    class Meta:
        model = Study
        fields = (
            "slug", "name", "question", "limits", "source", "synthetic", "role",
            "n_patients", "n_slides", "n_models",
        )  # fmt: skip


class EndpointSerializer(serializers.Serializer):
    code = serializers.CharField()
    label = serializers.CharField()
    time_zero = serializers.CharField()
    causes = serializers.DictField(child=serializers.CharField())


class ClinicalColumnSerializer(serializers.Serializer):
    name = serializers.CharField()
    label = serializers.CharField()
    kind = serializers.ChoiceField(choices=["number", "category"])
    unit = serializers.CharField()
    levels = serializers.ListField(child=serializers.CharField())


class StudyDetailSerializer(StudySerializer):
    permissions = serializers.SerializerMethodField()
    endpoints = EndpointSerializer(many=True)
    clinical_columns = ClinicalColumnSerializer(many=True)

    class Meta(StudySerializer.Meta):
        fields = (*StudySerializer.Meta.fields, "permissions", "endpoints", "clinical_columns")

    def get_permissions(self, study: Study) -> list[str]:
        return sorted(selectors.allowed_actions(study.role))


class OutcomeSerializer(serializers.Serializer):
    entry = serializers.FloatField(help_text="Months; above 0 under observation only from then.")
    time = serializers.FloatField(help_text="Months from the endpoint's time zero.")
    cause = serializers.IntegerField(help_text="0: censored.")


class PatientSerializer(serializers.Serializer):
    patient = serializers.CharField()
    site = serializers.CharField()
    part = serializers.CharField(
        help_text="Planned before anything was trained: train, validation, test, or empty."
    )
    n_slides = serializers.IntegerField()
    values = serializers.DictField(help_text="Clinical column → number or text.")
    outcomes = serializers.DictField(
        child=OutcomeSerializer(), help_text="Endpoint code → outcome."
    )


class StudyListView(ListAPIView):
    """The studies that the user is a member of."""

    serializer_class = StudySerializer

    def get_queryset(self):
        if getattr(self, "swagger_fake_view", False):
            return Study.objects.none()
        return selectors.studies_for(self.request.user)


class StudyDetailView(APIView):
    @extend_schema(responses=StudyDetailSerializer)
    def get(self, request: Request, slug: str) -> Response:
        """One study: counts, endpoints, clinical columns, the user's role and permissions."""
        study = selectors.study_for(request.user, slug)
        return Response(StudyDetailSerializer(study).data)


class PatientListView(ListAPIView):
    """Patients of a study with their clinical values and outcomes."""

    serializer_class = PatientSerializer

    @extend_schema(
        parameters=[
            OpenApiParameter("search", OpenApiTypes.STR, description="Part of the patient code."),
            OpenApiParameter("site", OpenApiTypes.STR, description="Contributing site, exactly."),
        ]
    )
    def get(self, request: Request, slug: str) -> Response:
        study = selectors.study_for(request.user, slug)
        patients = selectors.patients_of(
            study,
            search=request.query_params.get("search", ""),
            site=request.query_params.get("site", ""),
        )
        rows = selectors.patient_rows(self.paginate_queryset(patients))
        return self.get_paginated_response(PatientSerializer(rows, many=True).data)
