"""Users and the audit trail. Who may do what in a study stands in permissions.py."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    """A person. Roles are per study (`studies.Membership`).

    `is_staff` opens the Django admin and lets a person create studies, whose admin they then are.
    """

    affiliation = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["username"]

    @property
    def display_name(self) -> str:
        return self.get_full_name() or self.username


class AuditEvent(models.Model):
    """One thing a person (or the system, with no actor) did. Append-only.

    The study is kept as a number, not a foreign key: the trail outlives what it tells of.
    """

    at = models.DateTimeField(auto_now_add=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    action = models.CharField(max_length=60)
    study_id = models.BigIntegerField(null=True, db_index=True)
    subject = models.CharField(max_length=120, help_text="type:id, e.g. slide:12")
    detail = models.JSONField(default=dict)

    class Meta:
        ordering = ["-at", "-id"]
