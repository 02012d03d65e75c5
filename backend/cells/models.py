"""Cell tables (cells or spots of a slide) and their layers."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from backend.jobs.models import Artifact
from backend.slides.models import Slide
from backend.studies.models import Study


class CellTableQuerySet(models.QuerySet["CellTable"]):
    def visible_to(self, user) -> CellTableQuerySet:
        return self.filter(slide__study__in=Study.objects.visible_to(user))


class CellTable(models.Model):
    """One table per slide and source. The row index in the artifact is the cell's identity.

    A table with `n_genes` 0 holds positions only (nuclei found on the H&E, a grid of spots).
    """

    class RowKind(models.TextChoices):
        CELL = "cell"
        SPOT = "spot"

    slide = models.ForeignKey(Slide, on_delete=models.CASCADE, related_name="cell_tables")
    source = models.CharField(max_length=60, help_text="measured, nuclei:classical, grid, …")
    artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="+")
    row_kind = models.CharField(max_length=4, choices=RowKind.choices)
    n_rows = models.PositiveIntegerField()
    n_genes = models.PositiveIntegerField()
    panel_hash = models.CharField(max_length=64, blank=True)
    spot_diameter_um = models.FloatField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = CellTableQuerySet.as_manager()

    class Meta:
        ordering = ["slide", "source"]
        constraints = [
            models.UniqueConstraint(fields=["slide", "source"], name="cell_table_once"),
            models.CheckConstraint(
                condition=Q(row_kind="cell") | Q(spot_diameter_um__gt=0),
                name="spots_have_diameter",
            ),
        ]

    @property
    def is_measured(self) -> bool:
        return self.n_genes > 0


class LayerQuerySet(models.QuerySet["Layer"]):
    def visible_to(self, user) -> LayerQuerySet:
        return self.filter(table__slide__study__in=Study.objects.visible_to(user))


class Layer(models.Model):
    """Values in the row order of a cell table, made by a model.

    Measured expression is not a layer: it is read from the cell table's counts.
    """

    class Kind(models.TextChoices):
        EXPRESSION = "expression"
        EMBEDDING = "embedding"
        CELL_TYPE = "cell_type"
        TRUST = "trust"

    table = models.ForeignKey(CellTable, on_delete=models.CASCADE, related_name="layers")
    kind = models.CharField(max_length=20, choices=Kind.choices)
    artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="+")
    model_artifact = models.ForeignKey(Artifact, on_delete=models.PROTECT, related_name="+")
    unit = models.CharField(max_length=60)
    panel_hash = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = LayerQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["table", "kind", "model_artifact"], name="layer_once_per_model"
            )
        ]
