from django.contrib import admin

from backend.studies.models import (
    ClinicalColumn,
    Endpoint,
    Membership,
    Outcome,
    Patient,
    Specimen,
    Study,
)


class MembershipInline(admin.TabularInline):
    model = Membership
    extra = 0
    autocomplete_fields = ["user"]


class EndpointInline(admin.TabularInline):
    model = Endpoint
    extra = 0


class ClinicalColumnInline(admin.TabularInline):
    model = ClinicalColumn
    extra = 0


class OutcomeInline(admin.TabularInline):
    model = Outcome
    extra = 0


class SpecimenInline(admin.TabularInline):
    model = Specimen
    extra = 0


@admin.register(Study)
class StudyAdmin(admin.ModelAdmin):
    list_display = ["name", "slug", "synthetic", "created_at"]
    search_fields = ["name", "slug"]
    inlines = [MembershipInline, EndpointInline, ClinicalColumnInline]


@admin.register(Patient)
class PatientAdmin(admin.ModelAdmin):
    list_display = ["code", "study", "site", "part"]
    list_filter = ["study", "part"]
    list_select_related = ["study"]
    search_fields = ["code"]
    inlines = [SpecimenInline, OutcomeInline]
