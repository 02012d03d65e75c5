"""Datasets, model versions, evaluations, promotion, and patient-level tables."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from backend.cells.models import CellTable
from backend.jobs.models import Artifact, Job
from backend.slides.models import Slide
from backend.studies.models import Part as Part
from backend.studies.models import Patient, Study


class Dataset(models.Model):
    """A frozen list of measured cell tables with the part each plays. Parts never share a patient
    unless `same_patient` says so (her2st: sections of one patient)."""

    class Split(models.TextChoices):
        PLANNED = "planned", "as planned in the study"
        CHOSEN = "chosen", "chosen by who started the training"
        DRAWN = "drawn", "drawn by the seed"

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="datasets")
    version = models.PositiveIntegerField()
    artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="+")
    row_kind = models.CharField(max_length=4, choices=CellTable.RowKind.choices)
    same_patient = models.BooleanField(default=False)
    split = models.CharField(
        max_length=10,
        choices=Split.choices,
        blank=True,
        help_text="Who decided which slides train, validate and test; empty: not recorded.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-version"]
        constraints = [models.UniqueConstraint(fields=["study", "version"], name="dataset_once")]


class DatasetTable(models.Model):
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="tables")
    table = models.ForeignKey(CellTable, null=True, on_delete=models.SET_NULL, related_name="+")
    table_sha256 = models.CharField(max_length=64)
    slide_sha256 = models.CharField(max_length=64)
    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="+")
    part = models.CharField(max_length=10, choices=Part.choices)


class ModelVersionQuerySet(models.QuerySet["ModelVersion"]):
    def visible_to(self, user) -> ModelVersionQuerySet:
        return self.filter(study__in=Study.objects.visible_to(user))


class ModelVersion(models.Model):
    class Status(models.TextChoices):
        CANDIDATE = "candidate"
        PROMOTED = "promoted"
        RETIRED = "retired"

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="model_versions")
    version = models.PositiveIntegerField()
    artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="+")
    dataset = models.ForeignKey(Dataset, on_delete=models.RESTRICT, related_name="model_versions")
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="+")
    parent = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, related_name="+")
    row_kind = models.CharField(max_length=4, choices=CellTable.RowKind.choices)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.CANDIDATE)
    config = models.JSONField(default=dict)
    metrics = models.JSONField(default=dict)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ModelVersionQuerySet.as_manager()

    class Meta:
        ordering = ["-version"]
        constraints = [
            models.UniqueConstraint(fields=["study", "version"], name="model_version_once"),
            models.UniqueConstraint(
                fields=["study", "row_kind"],
                condition=Q(status="promoted"),
                name="one_promoted_model_per_row_kind",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.study.slug} {self.name}"

    @property
    def name(self) -> str:
        return f"PAST v{self.version}"


class Evaluation(models.Model):
    """Scores of a model version on a dataset; the full per-gene table is the artifact."""

    model_version = models.ForeignKey(
        ModelVersion, on_delete=models.CASCADE, related_name="evaluations"
    )
    dataset = models.ForeignKey(Dataset, on_delete=models.RESTRICT, related_name="evaluations")
    part = models.CharField(max_length=10, choices=Part.choices)
    artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="+")
    metrics = models.JSONField(default=dict)
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="+")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at", "-id"]


class PromotionGate(models.Model):
    """What a model version of a study must show before it can be promoted."""

    study = models.OneToOneField(Study, on_delete=models.CASCADE, related_name="gate")
    full_report = models.BooleanField(
        default=False, help_text="The full report on the held-out part must have been made."
    )
    median_not_worse = models.BooleanField(
        default=False, help_text="Median Pearson at least that of the version in use."
    )
    margin = models.FloatField(default=0.0, help_text="By how much it may be lower all the same.")
    no_baseline_ahead = models.BooleanField(
        default=False, help_text="No baseline may be ahead by a corrected test."
    )
    set_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    set_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(margin__gte=0, margin__lte=1), name="gate_margin_is_a_share"
            )
        ]


class Promotion(models.Model):
    """A recorded decision on which model version a study uses."""

    class Kind(models.TextChoices):
        PROMOTE = "promote"
        ROLLBACK = "rollback"

    model_version = models.ForeignKey(
        ModelVersion, on_delete=models.CASCADE, related_name="promotions"
    )
    kind = models.CharField(max_length=10, choices=Kind.choices)
    replaced = models.ForeignKey(
        ModelVersion, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    reason = models.TextField(blank=True)
    metrics = models.JSONField(default=dict, help_text="Both versions' metrics at that moment.")
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-at", "-id"]


class Exposure(models.Model):
    """A patient whose data a model has seen, and in which part. Written by training."""

    model_artifact = models.ForeignKey(Artifact, on_delete=models.CASCADE, related_name="exposures")
    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="exposures")
    part = models.CharField(max_length=10, choices=Part.choices)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model_artifact", "patient", "part"], name="exposure_once"
            )
        ]


class PatientTableQuerySet(models.QuerySet["PatientTable"]):
    def visible_to(self, user) -> PatientTableQuerySet:
        return self.filter(study__in=Study.objects.visible_to(user))


class PatientTable(models.Model):
    """Patient-level numbers in one artifact: a row per patient code, a column per feature."""

    class Source(models.TextChoices):
        MEASURED = "measured"
        PREDICTED = "predicted"
        RISK = "risk"

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="patient_tables")
    name = models.CharField(max_length=120)
    source = models.CharField(max_length=10, choices=Source.choices)
    unit = models.CharField(max_length=60)
    artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="+")
    model_artifact = models.ForeignKey(
        Artifact, null=True, on_delete=models.PROTECT, related_name="+"
    )
    n_patients = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PatientTableQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(source="measured") | Q(model_artifact__isnull=False),
                name="not_measured_names_its_model",
            )
        ]


class PatientColumn(models.Model):
    """The index of a patient table: what can be searched and stratified by."""

    table = models.ForeignKey(PatientTable, on_delete=models.CASCADE, related_name="columns")
    name = models.CharField(max_length=120, db_index=True)
    label = models.CharField(max_length=160, blank=True)
    fold = models.PositiveSmallIntegerField(
        null=True, help_text="Cross-validation fold; empty for a column that covers all patients."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["table", "name"],
                condition=Q(fold__isnull=True),
                name="patient_column_once",
            ),
            models.UniqueConstraint(
                fields=["table", "name", "fold"],
                condition=Q(fold__isnull=False),
                name="patient_column_once_per_fold",
            ),
        ]


class PlantedTruth(models.Model):
    """What a synthetic study was made to hold: the document that its import brought along."""

    study = models.OneToOneField(Study, on_delete=models.CASCADE, related_name="planted_truth")
    artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="+")


class Declined(models.Model):
    """A slide that a model would not predict on: too much of it lies outside what it was trained
    on. Goes when a later prediction of the same model takes the slide."""

    slide = models.ForeignKey(Slide, on_delete=models.CASCADE, related_name="declined")
    model_artifact = models.ForeignKey(Artifact, on_delete=models.CASCADE, related_name="+")
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="+")
    share = models.FloatField(
        help_text="Share of the slide's rows outside the model's training distribution."
    )
    threshold = models.FloatField(help_text="The share above which the model declines.")
    at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "declined slides"
        constraints = [
            models.UniqueConstraint(fields=["slide", "model_artifact"], name="declined_once"),
            models.CheckConstraint(
                condition=Q(share__gte=0, share__lte=1), name="declined_share_is_a_share"
            ),
        ]
