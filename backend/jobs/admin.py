from django.contrib import admin

from backend.jobs.models import Artifact, Job, JobEvent


class ReadOnly:
    """Jobs and artifacts change through their services only."""

    def has_add_permission(self, request, obj=None):
        return False

    def has_change_permission(self, request, obj=None):
        return False


class JobEventInline(ReadOnly, admin.TabularInline):
    model = JobEvent
    fields = ["seq", "at", "kind", "data"]


@admin.register(Job)
class JobAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ["id", "title", "study", "status", "failure_kind", "attempt", "created_at"]
    list_filter = ["status", "kind", "failure_kind"]
    list_select_related = ["study"]
    search_fields = ["title"]
    inlines = [JobEventInline]


@admin.register(Artifact)
class ArtifactAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ["sha256", "kind", "bytes", "job", "created_at"]
    list_filter = ["kind"]
    list_select_related = ["job"]
    search_fields = ["sha256"]

    def has_delete_permission(self, request, obj=None):
        return False
