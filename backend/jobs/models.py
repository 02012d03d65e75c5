"""Jobs and artifacts.

    queued ──► running ──► succeeded
       │          │  ├───► failed
       │          ▼  │
       └────► cancelling ► cancelled

Postgres is the truth and the broker only rings the bell: a message says "look at job N". Whoever
takes the lease runs one attempt; commit is fenced by that lease, so that an attempt which lost it
changes nothing. A running job whose lease ran out is queued again by the reconciler.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from backend.studies.models import Study


class Artifact(models.Model):
    """An immutable, content-addressed file or folder in the object store."""

    class Kind(models.TextChoices):
        SLIDE = "slide"
        THUMBNAIL = "thumbnail"
        CELL_TABLE = "cell_table"
        LAYER = "layer"
        PATIENT_TABLE = "patient_table"
        DATASET = "dataset"
        MODEL = "model"
        RISK_MODEL = "risk_model"
        EVALUATION = "evaluation"
        TRUTH = "truth"

    sha256 = models.CharField(max_length=64, unique=True)
    kind = models.CharField(max_length=20, choices=Kind.choices)
    uri = models.TextField(help_text="Path inside the object store.")
    bytes = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    job = models.ForeignKey(
        "Job",
        null=True,
        on_delete=models.SET_NULL,
        related_name="artifacts",
        help_text="The job that made it.",
    )
    inputs = models.ManyToManyField("self", symmetrical=False, related_name="outputs", blank=True)

    def __str__(self) -> str:
        return f"{self.kind} {self.sha256[:12]}"


class JobQuerySet(models.QuerySet["Job"]):
    def visible_to(self, user) -> JobQuerySet:
        """Jobs of the user's studies, and their own (an import that made no study yet).

        A superuser sees every job.
        """
        if not user.is_authenticated:
            return self.none()
        if user.is_superuser:
            return self
        return self.filter(
            Q(study__in=Study.objects.visible_to(user)) | Q(study__isnull=True, created_by=user)
        )


class Job(models.Model):
    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        CANCELLING = "cancelling"
        CANCELLED = "cancelled"
        SUCCEEDED = "succeeded"
        FAILED = "failed"

    class FailureKind(models.TextChoices):
        INPUT = "input"
        CODE = "code"
        INFRASTRUCTURE = "infrastructure"

    ACTIVE = (Status.QUEUED, Status.RUNNING, Status.CANCELLING)

    study = models.ForeignKey(Study, null=True, on_delete=models.CASCADE, related_name="jobs")
    kind = models.CharField(max_length=30)
    title = models.CharField(max_length=200)
    parameters = models.JSONField(default=dict)
    queue = models.CharField(max_length=10)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.QUEUED)
    stage = models.CharField(max_length=120, blank=True)
    progress = models.FloatField(default=0.0, help_text="0 to 1.")
    attempt = models.PositiveSmallIntegerField(default=0)
    lease = models.UUIDField(null=True, help_text="Held by the attempt that is running.")
    lease_expires_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="jobs"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    result = models.JSONField(default=dict)
    failure_kind = models.CharField(max_length=15, choices=FailureKind.choices, blank=True)
    failure = models.JSONField(
        default=dict, help_text="code, where, what, remedy: the message a user can act on."
    )

    objects = JobQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(fields=["status", "lease_expires_at"])]
        constraints = [
            models.CheckConstraint(
                condition=Q(progress__gte=0, progress__lte=1), name="job_progress_share"
            ),
            models.CheckConstraint(
                condition=~Q(status="failed") | ~Q(failure_kind=""), name="job_failure_has_kind"
            ),
        ]

    def __str__(self) -> str:
        return f"job {self.pk}: {self.title}"


class JobEvent(models.Model):
    """What a job said, in order. `seq` counts from 1 within the job."""

    class Kind(models.TextChoices):
        STATUS = "status"
        STAGE = "stage"
        PROGRESS = "progress"
        METRIC = "metric"
        LOG = "log"

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveIntegerField()
    at = models.DateTimeField(auto_now_add=True)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    data = models.JSONField(default=dict)

    class Meta:
        ordering = ["seq"]
        constraints = [models.UniqueConstraint(fields=["job", "seq"], name="job_event_seq")]
