"""Slides: image files of a specimen, read through large-image."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from backend.jobs.models import Artifact
from backend.studies.models import Specimen, Study


class SlideQuerySet(models.QuerySet["Slide"]):
    def visible_to(self, user) -> SlideQuerySet:
        return self.filter(study__in=Study.objects.visible_to(user))


class Slide(models.Model):
    """Sizes are level-0 pixels; `mpp` is microns per pixel of level 0."""

    class Stain(models.TextChoices):
        HE = "H&E"
        IHC = "IHC"

    study = models.ForeignKey(Study, on_delete=models.CASCADE, related_name="slides")
    specimen = models.ForeignKey(Specimen, on_delete=models.CASCADE, related_name="slides")
    code = models.CharField(max_length=80)
    block = models.CharField(max_length=80, blank=True)
    section = models.CharField(max_length=80, blank=True)
    stain = models.CharField(max_length=10, choices=Stain.choices, default=Stain.HE)
    marker = models.CharField(max_length=40, blank=True, help_text="Antibody of an IHC slide.")
    synthetic = models.BooleanField(default=False, help_text="Drawn by software, not scanned.")
    artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="+")
    thumbnail = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="+")
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    levels = models.PositiveSmallIntegerField()
    tile_size = models.PositiveSmallIntegerField()
    mpp = models.FloatField()
    mpp_source = models.CharField(max_length=120)
    objective = models.FloatField(null=True, help_text="Magnification of level 0, if stated.")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = SlideQuerySet.as_manager()

    class Meta:
        ordering = ["code"]
        constraints = [
            models.UniqueConstraint(fields=["study", "code"], name="slide_once"),
            models.CheckConstraint(condition=Q(mpp__gt=0), name="slide_mpp_positive"),
        ]

    def __str__(self) -> str:
        return self.code
