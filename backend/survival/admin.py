from django.contrib import admin

from backend.survival.models import RiskModel, SurvivalAnalysis


class _ReadOnly(admin.ModelAdmin):
    """Made on the dashboard and by jobs; the administration only looks at them."""

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False


@admin.register(SurvivalAnalysis)
class SurvivalAnalysisAdmin(_ReadOnly):
    list_display = ["study", "name", "created_by", "created_at"]
    list_filter = ["study"]
    list_select_related = ["study", "created_by"]


@admin.register(RiskModel)
class RiskModelAdmin(_ReadOnly):
    list_display = ["study", "endpoint", "risks", "created_at"]
    list_filter = ["study"]
    list_select_related = ["study", "endpoint", "risks"]
