"""What was planted in a synthetic study, and which slides a model would not predict on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from backend.jobs.services import local
from backend.registry.models import Declined, ModelVersion, PlantedTruth
from backend.slides.models import Slide
from backend.studies.models import Study


def planted_truth(study: Study) -> dict[str, Any] | None:
    """The document of what was planted, as the generator wrote it; None where there is none."""
    planted = PlantedTruth.objects.filter(study=study).select_related("artifact").first()
    return json.loads(local(planted.artifact).read_bytes()) if planted else None


def declined_on(slides: Iterable[Slide]) -> dict[int, list[dict[str, Any]]]:
    """Slide id → one dict per model that declined the slide, newest first.

    Each has `model` (id, name, version; None when its row is gone), `share` and `threshold` (shares
    of the slide's rows outside the training distribution), `at` and `job`.
    """
    found = list(Declined.objects.filter(slide__in=slides).order_by("-at", "-pk"))
    models = {
        model.artifact_id: {"id": model.pk, "name": model.name, "version": model.version}
        for model in ModelVersion.objects.filter(
            artifact__in={row.model_artifact_id for row in found},
            study__slides__in={row.slide_id for row in found},
        )
        .only("version", "artifact_id")
        .order_by("version")
    }
    declined: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        declined[row.slide_id].append(
            {
                "model": models.get(row.model_artifact_id),
                "share": row.share,
                "threshold": row.threshold,
                "at": row.at,
                "job": row.job_id,
            }
        )
    return dict(declined)
