"""Study → Patient → Specimen, the typed clinical table and long outcomes."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from backend.accounts.permissions import Action, Role, allows


class Part(models.TextChoices):
    """What a patient, or a slide, is to a model."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class StudyQuerySet(models.QuerySet["Study"]):
    def visible_to(self, user) -> StudyQuerySet:
        """Studies that `user` is a member of; a superuser sees every study."""
        if not user.is_authenticated:
            return self.none()
        return self if user.is_superuser else self.filter(memberships__user=user)


class Study(models.Model):
    slug = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=200)
    question = models.TextField(blank=True, help_text="The study's question, shown on its page.")
    limits = models.TextField(blank=True, help_text="What this study does not show.")
    source = models.TextField(blank=True, help_text="Where the data comes from, and its licence.")
    synthetic = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = StudyQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "studies"

    def __str__(self) -> str:
        return self.name

    def role_of(self, user) -> str | None:
        """The user's role in this study, or None. Superusers are admins everywhere."""
        if user.is_superuser:
            return Role.ADMIN
        membership = self.memberships.filter(user=user).first()
        return membership.role if membership else None

    def allows(self, user, action: Action) -> bool:
        return allows(self.role_of(user), action)


class Membership(models.Model):
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships"
    )
    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=12, choices=[(r.value, r.value) for r in Role])

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "study"], name="membership_once"),
            models.CheckConstraint(
                condition=Q(role__in=[r.value for r in Role]), name="membership_role_known"
            ),
        ]


class Endpoint(models.Model):
    """A survival endpoint of a study, e.g. OS: all-cause death since diagnosis, in months."""

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="endpoints")
    code = models.CharField(max_length=12)
    label = models.CharField(max_length=120)
    time_zero = models.CharField(max_length=120, help_text="What month 0 is, e.g. diagnosis.")
    causes = models.JSONField(default=dict, help_text='Cause number → name, e.g. {"1": "death"}.')

    class Meta:
        ordering = ["code"]
        constraints = [models.UniqueConstraint(fields=["study", "code"], name="endpoint_once")]

    def __str__(self) -> str:
        return f"{self.code} – {self.label}"


class ClinicalColumn(models.Model):
    """A typed column of a study's clinical table."""

    class Kind(models.TextChoices):
        NUMBER = "number"
        CATEGORY = "category"

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="clinical_columns")
    name = models.CharField(max_length=80)
    label = models.CharField(max_length=120)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    unit = models.CharField(max_length=30, blank=True)
    levels = models.JSONField(default=list, help_text="Ordered levels of a category.")
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position", "name"]
        constraints = [
            models.UniqueConstraint(fields=["study", "name"], name="clinical_column_once")
        ]


class PatientQuerySet(models.QuerySet["Patient"]):
    def visible_to(self, user) -> PatientQuerySet:
        return self.filter(study__in=Study.objects.visible_to(user))


class Patient(models.Model):
    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="patients")
    code = models.CharField(max_length=80, help_text="The study's pseudonym for the patient.")
    site = models.CharField(max_length=80, blank=True, help_text="Contributing hospital or site.")
    part = models.CharField(
        max_length=10,
        choices=Part.choices,
        blank=True,
        help_text="The part planned for the patient before anything was trained, if any.",
    )

    objects = PatientQuerySet.as_manager()

    class Meta:
        ordering = ["code"]
        constraints = [
            models.UniqueConstraint(fields=["study", "code"], name="patient_once"),
            models.CheckConstraint(
                condition=Q(part__in=["", *Part.values]), name="patient_part_known"
            ),
        ]

    def __str__(self) -> str:
        return self.code


class ClinicalValue(models.Model):
    """One cell of the clinical table: a number or a text by the column's kind. Missing = no row."""

    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="clinical_values")
    column = models.ForeignKey(ClinicalColumn, on_delete=models.CASCADE, related_name="values")
    number = models.FloatField(null=True)
    text = models.CharField(max_length=200, null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["patient", "column"], name="clinical_value_once"),
            models.CheckConstraint(
                condition=Q(number__isnull=True, text__isnull=False)
                | Q(number__isnull=False, text__isnull=True),
                name="clinical_value_number_or_text",
            ),
        ]


class Outcome(models.Model):
    """Time to an endpoint. Times in months from the endpoint's time zero.

    `entry` > 0 is left truncation (under observation only from then); `cause` 0 is censored, others
    are the endpoint's causes, so that competing risks are values, not columns.
    """

    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="outcomes")
    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="outcomes")
    entry = models.FloatField(default=0.0)
    time = models.FloatField()
    cause = models.PositiveSmallIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["patient", "endpoint"], name="outcome_once"),
            models.CheckConstraint(condition=Q(entry__gte=0), name="outcome_entry_not_negative"),
            models.CheckConstraint(
                condition=Q(time__gte=F("entry")), name="outcome_time_after_entry"
            ),
        ]


class Specimen(models.Model):
    """A piece of tissue taken from a patient at one time."""

    class Kind(models.TextChoices):
        PRIMARY = "primary"
        METASTASIS = "metastasis"
        UNKNOWN = "unknown"

    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="specimens")
    code = models.CharField(max_length=80)
    anatomic_site = models.CharField(max_length=120, blank=True)
    timepoint = models.CharField(max_length=80, blank=True)
    kind = models.CharField(max_length=12, choices=Kind.choices, default=Kind.UNKNOWN)
    treatment = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["code"]
        constraints = [models.UniqueConstraint(fields=["patient", "code"], name="specimen_once")]
