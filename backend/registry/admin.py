from django.contrib import admin

from backend.registry.models import (
    Dataset,
    Evaluation,
    ModelVersion,
    PatientTable,
    Promotion,
    PromotionGate,
)


class _ReadOnly(admin.ModelAdmin):
    """Made by jobs and by decisions on the model pages; the administration only looks at
    them, and deletes them with their study."""

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False


@admin.register(Dataset)
class DatasetAdmin(_ReadOnly):
    list_display = ["study", "version", "row_kind", "same_patient", "split", "created_at"]
    list_filter = ["study"]
    list_select_related = ["study"]


@admin.register(ModelVersion)
class ModelVersionAdmin(_ReadOnly):
    list_display = ["study", "version", "row_kind", "status", "created_by", "created_at"]
    list_filter = ["study", "status"]
    list_select_related = ["study", "created_by"]


@admin.register(Evaluation)
class EvaluationAdmin(_ReadOnly):
    """The log of looks at held-out parts."""

    list_display = ["model_version", "dataset", "part", "created_by", "created_at"]
    list_filter = ["part", "model_version__study"]
    list_select_related = ["model_version__study", "dataset__study", "created_by"]


@admin.register(PromotionGate)
class PromotionGateAdmin(_ReadOnly):
    list_display = ["study", "full_report", "median_not_worse", "no_baseline_ahead", "set_by"]
    list_select_related = ["study", "set_by"]


@admin.register(Promotion)
class PromotionAdmin(_ReadOnly):
    list_display = ["model_version", "kind", "replaced", "actor", "reason", "at"]
    list_select_related = ["model_version__study", "replaced__study", "actor"]


@admin.register(PatientTable)
class PatientTableAdmin(_ReadOnly):
    list_display = ["study", "name", "source", "unit", "n_patients"]
    list_filter = ["study", "source"]
    list_select_related = ["study"]
