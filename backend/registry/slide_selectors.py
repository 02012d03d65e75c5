"""Reads of slides with everything known about them: tables, layers, and who predicted what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from django.db.models import Count, Q
from django.urls import reverse

from backend.accounts.models import User
from backend.cells.annotations import has_annotated_types
from backend.cells.api import coordinates_url
from backend.cells.models import CellTable, Layer
from backend.registry.models import (
    DatasetTable,
    Exposure,
    ModelVersion,
    Part,
    PatientColumn,
    PatientTable,
)
from backend.registry.planted import declined_on
from backend.registry.selectors import not_predictable
from backend.slides.models import Slide
from backend.slides.selectors import slides_of, thumbnail_url, tile_url
from backend.studies.models import Study


def slide_documents(
    slides: Iterable[Slide], user: User, *, tiles: bool = False
) -> list[dict[str, Any]]:
    """Slides as the API shows them, in a fixed number of queries however many they are.

    Args:
        slides: from `slide_for` or `slides_of`, with `patient` and `patient_id`.
        tiles: whether to add the address of the tiles.
    """
    slides = list(slides)
    known = _Known(slides)
    declined = declined_on(slides)
    return [
        {
            "id": slide.pk,
            "code": slide.code,
            "patient": slide.patient,
            "block": slide.block,
            "section": slide.section,
            "stain": slide.stain,
            "marker": slide.marker,
            "synthetic": slide.synthetic,
            "width": slide.width,
            "height": slide.height,
            "levels": slide.levels,
            "tile_size": slide.tile_size,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
            "objective": slide.objective,
            "url": reverse("slide", args=[slide.pk]),
            "thumbnail_url": thumbnail_url(slide, user),
            "declined": [
                {
                    "model": by["model"]["name"] if by["model"] else "",
                    "share": by["share"],
                    "threshold": by["threshold"],
                }
                for by in declined.get(slide.pk, ())
            ],
            "tables": [known.table(table, slide) for table in known.tables[slide.pk]],
            **({"tile_url": tile_url(slide, user)} if tiles else {}),
        }
        for slide in slides
    ]


def slide_document(slide: Slide, user: User) -> dict[str, Any]:
    """One slide with the address of its tiles and its study; `slide` comes from `slide_for`."""
    (document,) = slide_documents([slide], user, tiles=True)
    document["study"] = slide.study.slug
    _say_how_far_to_trust(document)
    known = CellTable.objects.filter(slide=slide).select_related("artifact")
    annotated = {table.pk for table in known if has_annotated_types(table)}
    for table in document["tables"]:
        table["annotated"] = table["id"] in annotated
    return document


def _say_how_far_to_trust(document: dict[str, Any]) -> None:
    """Adds to each layer the genes that its model cannot tell from H&E, and its intervals."""
    layers = [layer for table in document["tables"] for layer in table["layers"]]
    models = ModelVersion.objects.filter(
        pk__in={layer["model"]["id"] for layer in layers if layer["model"]}
    ).defer("config")
    by_id = {model.pk: model for model in models}
    refused = {pk: not_predictable(model) for pk, model in by_id.items()}
    for layer in layers:
        known = layer["model"] and layer["model"]["id"]
        layer["not_predictable"] = refused[known] if known else {}
        layer["intervals"] = by_id[known].metrics.get("intervals") if known else None


class _Known:
    """Tables, layers, models, exposures and dataset parts of some slides, each read once."""

    def __init__(self, slides: list[Slide]) -> None:
        self.tables: dict[int, list[CellTable]] = defaultdict(list)
        self._layers: dict[int, list[Layer]] = defaultdict(list)
        tables = CellTable.objects.filter(slide__in=slides).select_related("artifact")
        for table in tables.order_by("-n_genes", "pk"):
            self.tables[table.slide_id].append(table)
        layers = Layer.objects.filter(table__slide__in=slides).select_related("artifact")
        for layer in layers:
            self._layers[layer.table_id].append(layer)
        artifacts = {layer.model_artifact_id for layer in layers}
        self._models = {
            model.artifact_id: model
            for model in ModelVersion.objects.filter(
                artifact__in=artifacts, study__in={slide.study_id for slide in slides}
            )
            .defer("config", "metrics")
            .order_by("version")
        }
        self._trained_on = set(
            Exposure.objects.filter(model_artifact__in=artifacts, part=Part.TRAIN)
            .filter(patient__in={slide.patient_id for slide in slides})
            .values_list("model_artifact_id", "patient_id")
        )
        self._n_genes = dict(
            PatientColumn.objects.filter(
                table__source=PatientTable.Source.PREDICTED,
                table__model_artifact__in=artifacts,
                table__study__in={slide.study_id for slide in slides},
            )
            .values_list("table__model_artifact")
            .annotate(n=Count("pk"))
        )
        self._parts: dict[tuple[int, str], str] = {
            (dataset, sha256): part
            for dataset, sha256, part in DatasetTable.objects.filter(
                dataset__in={model.dataset_id for model in self._models.values()},
                slide_sha256__in={slide.artifact.sha256 for slide in slides},
            ).values_list("dataset_id", "slide_sha256", "part")
        }

    def table(self, table: CellTable, slide: Slide) -> dict[str, Any]:
        return {
            "id": table.pk,
            "source": table.source,
            "row_kind": table.row_kind,
            "n_rows": table.n_rows,
            "n_genes": table.n_genes,
            "spot_diameter_um": table.spot_diameter_um,
            "measured": table.is_measured,
            "coordinates_url": coordinates_url(table),
            "layers": [self._layer(layer, slide) for layer in self._layers[table.pk]],
        }

    def _layer(self, layer: Layer, slide: Slide) -> dict[str, Any]:
        """`exposed`: the patient was in the model's training part; `part`: this very slide's."""
        model = self._models.get(layer.model_artifact_id)
        return {
            "id": layer.pk,
            "kind": layer.kind,
            "unit": layer.unit,
            "model": model and {"id": model.pk, "name": model.name, "version": model.version},
            "n_genes": self._n_genes.get(layer.model_artifact_id),
            "exposed": (layer.model_artifact_id, slide.patient_id) in self._trained_on,
            "part": self._parts.get((model.dataset_id, slide.artifact.sha256)) if model else None,
        }


def study_slides(study: Study, user: User) -> list[dict[str, Any]]:
    """A study's slides for its page, the large ones first: documents with what is measured, which
    models predicted, and which declined (name and share of rows unlike the training)."""
    documents = slide_documents(slides_of(study), user)
    documents.sort(key=area_mm2, reverse=True)
    for document in documents:
        document["real_tissue"] = study.synthetic and not document["synthetic"]
        # A declined slide has layers too: those that say how far its rows are from the training.
        layers = [
            layer
            for table in document["tables"]
            for layer in table["layers"]
            if layer["model"] and layer["kind"] == Layer.Kind.EXPRESSION
        ]
        document["measured"] = any(table["measured"] for table in document["tables"])
        document["predicted"] = sorted({layer["model"]["name"] for layer in layers})
        document["exposed_to"] = sorted(
            {layer["model"]["name"] for layer in layers if layer["exposed"]}
        )
    return documents


def area_mm2(slide: dict[str, Any]) -> float:
    """Of a slide's document."""
    return slide["width"] * slide["height"] * slide["mpp"] ** 2 / 1e6


def slide_counts(study: Study) -> dict[str, int]:
    """Slides of a study: all, and those with measured, predicted expression, predicted types."""
    measured = CellTable.objects.filter(slide__study=study, n_genes__gt=0)
    predicted = Layer.objects.filter(table__slide__study=study).aggregate(
        **{
            name: Count("table__slide", filter=Q(kind=kind), distinct=True)
            for name, kind in (
                ("predicted_slides", Layer.Kind.EXPRESSION),
                ("typed_slides", Layer.Kind.CELL_TYPE),
            )
        }
    )
    return {
        "slides": study.slides.count(),
        "measured_slides": measured.values("slide").distinct().count(),
        **predicted,
    }


def model_name(layer: Layer) -> str:
    """The name and version of the model that made a layer; empty when its row is gone."""
    model = (
        ModelVersion.objects.filter(
            artifact=layer.model_artifact_id, study__slides__cell_tables=layer.table_id
        )
        .order_by("-version")
        .first()
    )
    return model.name if model else ""
