"""Saved survival analyses and fitted risk models."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from backend.jobs.models import Artifact, Job
from backend.registry.models import PatientTable
from backend.studies.models import Endpoint, Study


class SurvivalAnalysisQuerySet(models.QuerySet["SurvivalAnalysis"]):
    def visible_to(self, user) -> SurvivalAnalysisQuerySet:
        return self.filter(study__in=Study.objects.visible_to(user))


class SurvivalAnalysis(models.Model):
    """A stratification that somebody saved: the request, never its numbers."""

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="survival_analyses")
    name = models.CharField(max_length=120)
    request = models.JSONField()
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = SurvivalAnalysisQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "survival analyses"


class RiskModelQuerySet(models.QuerySet["RiskModel"]):
    def visible_to(self, user) -> RiskModelQuerySet:
        return self.filter(study__in=Study.objects.visible_to(user))


class RiskModel(models.Model):
    """A fitted Cox model; its out-of-fold risks are the patient table."""

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="risk_models")
    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="+")
    artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="+")
    risks = models.OneToOneField(PatientTable, on_delete=models.CASCADE, related_name="risk_model")
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="+")
    metrics = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = RiskModelQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
