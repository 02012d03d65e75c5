"""Shapes of the registry's answers."""

from __future__ import annotations

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from backend.cells.models import CellTable
from backend.registry import selectors
from backend.registry.models import Evaluation, ModelVersion, Promotion, PromotionGate
from ml.models.encoder_list import NAMES


class LayerModelSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    name = serializers.CharField()
    version = serializers.IntegerField()


class LayerSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    kind = serializers.CharField()
    unit = serializers.CharField()
    model = LayerModelSerializer(allow_null=True)
    n_genes = serializers.IntegerField(allow_null=True)
    exposed = serializers.BooleanField(
        help_text="The patient was in the training part of the model."
    )
    part = serializers.CharField(
        allow_null=True, help_text="The part this very slide played for the model, if any."
    )


class ScoredLayerSerializer(LayerSerializer):
    not_predictable = serializers.DictField(
        help_text="Gene → pcc, low, high in validation: what the model cannot tell from H&E."
    )
    intervals = serializers.DictField(
        allow_null=True,
        help_text="level, half_width by gene, and coverage on held-out patients; null without.",
    )


class CellTableSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    source = serializers.CharField()
    row_kind = serializers.ChoiceField(choices=CellTable.RowKind.choices)
    n_rows = serializers.IntegerField()
    n_genes = serializers.IntegerField()
    spot_diameter_um = serializers.FloatField(allow_null=True)
    measured = serializers.BooleanField()
    coordinates_url = serializers.CharField()
    layers = LayerSerializer(many=True)


class ScoredTableSerializer(CellTableSerializer):
    layers = ScoredLayerSerializer(many=True)
    annotated = serializers.BooleanField(help_text="Rows came with cell types.")


class DeclinedSerializer(serializers.Serializer):
    model = serializers.CharField(help_text="Name of the model version.")
    share = serializers.FloatField(help_text="Of the slide's rows, unlike the training tissue.")
    threshold = serializers.FloatField(help_text="The share above which the model declines.")


class SlideSummarySerializer(serializers.Serializer):
    id = serializers.IntegerField()
    code = serializers.CharField()
    patient = serializers.CharField()
    block = serializers.CharField()
    section = serializers.CharField()
    stain = serializers.CharField()
    marker = serializers.CharField()
    width = serializers.IntegerField()
    height = serializers.IntegerField()
    levels = serializers.IntegerField()
    tile_size = serializers.IntegerField()
    synthetic = serializers.BooleanField(help_text="Drawn by a program, not scanned.")
    mpp = serializers.FloatField(help_text="Microns per level-0 pixel.")
    mpp_source = serializers.CharField()
    objective = serializers.FloatField(allow_null=True)
    url = serializers.CharField()
    thumbnail_url = serializers.CharField()
    declined = DeclinedSerializer(
        many=True, help_text="Models that would not predict on the slide, and why."
    )
    tables = CellTableSerializer(many=True)


class SlideSerializer(SlideSummarySerializer):
    study = serializers.CharField()
    tables = ScoredTableSerializer(many=True)
    tile_url = serializers.CharField(help_text="With {z}, {x} and {y} to be filled in.")


class EvaluationSerializer(serializers.ModelSerializer):
    label = serializers.SerializerMethodField()
    dataset_version = serializers.IntegerField(source="dataset.version")

    class Meta:
        model = Evaluation
        fields = ("id", "part", "label", "dataset_version", "metrics", "created_at")

    def get_label(self, evaluation: Evaluation) -> str:
        return selectors.held_out_label(evaluation.dataset, evaluation.part)


class PromotionSerializer(serializers.ModelSerializer):
    actor = serializers.CharField(source="actor.display_name", default=None)
    replaced = serializers.CharField(source="replaced.name", default=None)

    class Meta:
        model = Promotion
        fields = ("id", "kind", "replaced", "actor", "reason", "metrics", "at")


class ModelSerializer(serializers.ModelSerializer):
    name = serializers.CharField()
    study = serializers.CharField(source="study.slug")
    dataset_version = serializers.IntegerField(source="dataset.version")
    same_patient = serializers.BooleanField(source="dataset.same_patient")
    created_by = serializers.CharField(source="created_by.display_name", default=None)

    class Meta:
        model = ModelVersion
        fields = (
            "id", "name", "version", "study", "row_kind", "status", "metrics", "dataset_version",
            "same_patient", "created_by", "created_at",
        )  # fmt: skip


class ModelDetailSerializer(ModelSerializer):
    dataset = serializers.SerializerMethodField()
    exposures = serializers.SerializerMethodField(help_text="Patients seen, per part.")
    evaluations = EvaluationSerializer(many=True)
    promotions = PromotionSerializer(many=True)
    sha256 = serializers.CharField(source="artifact.sha256")
    job = serializers.IntegerField(source="job_id", allow_null=True)
    not_predictable = serializers.SerializerMethodField(
        help_text="Gene → pcc, low, high in validation: what the model cannot tell from H&E."
    )
    ood = serializers.SerializerMethodField(
        help_text="How far from its training tissue the model works; null when it does not say."
    )

    class Meta(ModelSerializer.Meta):
        fields = (
            *ModelSerializer.Meta.fields,
            "config", "dataset", "exposures", "evaluations", "promotions", "sha256", "job",
            "not_predictable", "ood",
        )  # fmt: skip

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_dataset(self, model: ModelVersion) -> dict:
        return selectors.dataset_document(model.dataset)

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_exposures(self, model: ModelVersion) -> dict[str, int]:
        return selectors.exposure_counts(model)

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_not_predictable(self, model: ModelVersion) -> dict[str, dict[str, float | None]]:
        return selectors.not_predictable(model)

    @extend_schema_field({"type": "object", "nullable": True})
    def get_ood(self, model: ModelVersion) -> dict | None:
        return model.metrics.get("ood")


class ImportRequestSerializer(serializers.Serializer):
    path = serializers.CharField(help_text="A folder on the server.")
    format = serializers.ChoiceField(choices=["auto", "study", "her2st", "kirc"], default="auto")


class TrainRequestSerializer(serializers.Serializer):
    row_kind = serializers.ChoiceField(choices=CellTable.RowKind.choices, required=False)
    validation = serializers.ListField(child=serializers.CharField(), required=False)
    test = serializers.ListField(child=serializers.CharField(), required=False)
    epochs = serializers.IntegerField(required=False, min_value=1)
    seed = serializers.IntegerField(required=False, min_value=0)
    encoder = serializers.ChoiceField(choices=NAMES, required=False)
    preset = serializers.ChoiceField(choices=["small", "tiny"], required=False)


class PredictRequestSerializer(serializers.Serializer):
    model = serializers.IntegerField(help_text="Id of a model version.")
    slides = serializers.ListField(child=serializers.CharField(), help_text="Slide codes.")
    way = serializers.ChoiceField(
        choices=["crop", "shared"],
        required=False,
        help_text="A crop per row, or a shared forward; by default as the model was trained.",
    )


class EvaluateRequestSerializer(serializers.Serializer):
    seed = serializers.IntegerField(required=False, min_value=0)
    baselines = serializers.ListField(
        child=serializers.CharField(), required=False, help_text="Names; all by default."
    )


class GateSerializer(serializers.ModelSerializer):
    set_by = serializers.CharField(source="set_by.display_name", default=None, read_only=True)

    class Meta:
        model = PromotionGate
        fields = (
            "full_report", "median_not_worse", "margin", "no_baseline_ahead", "set_by", "set_at",
        )  # fmt: skip


class PromoteRequestSerializer(serializers.Serializer):
    reason = serializers.CharField(allow_blank=True)
