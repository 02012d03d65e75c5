"""A small document of what was planted, for the rows of tests."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from backend.jobs.models import Artifact
from backend.jobs.services import store_artifact
from backend.registry.models import PlantedTruth
from backend.studies.models import Study
from tests.backend.rows import GENES, add_job

LINKS = ("morphology", "morphology", "surroundings", "nothing")
POSSIBLE = (0.6, 0.4, 0.5, 0.02)

TRUTH: dict[str, Any] = {
    "version": 1,
    "mpp": 0.5,
    "seed": 7,
    "cells": [{"type": "tumour", "label": "Tumour", "n": 1200, "share": 1.0}],
    "states": [
        {"name": "size", "of": "tumour", "label": "Nuclear size", "drawn_as": "area of the nucleus"}
    ],
    "surroundings": [{"name": "lymph", "label": "Lymphocytes within 50 µm"}],
    "contact": {
        "definition": "Share of tumour cells that touch a lymphocyte.",
        "radius_um": 15,
        "mean": 0.2,
        "sd": 0.1,
        "by_patient": [{"patient": "P1", "site": "A", "contact": 0.2}],
    },
    "genes": [
        {"symbol": symbol, "gene_id": "", "link": link, "follows": "tumour cells",
         "oracle_pcc": possible}
        for symbol, link, possible in zip(GENES, LINKS, POSSIBLE, strict=True)
    ],
    "hazards": [
        {"term": "contact", "label": "contact", "log_hazard_ratio": -1.0, "unit": "SD"}
    ],
    "fitted": [{"term": "contact", "log_hazard_ratio": -0.871, "low": -1.2, "high": -0.6}],
    "sites": [
        {"site": "B", "patients": 1, "slides": 2, "haematoxylin_gain": 1.3, "eosin_gain": 1.1,
         "events": 17, "median_months": 31.25, "note": "Darker stain."}
    ],
    "oracle_risk": [{"predictor": "stage + age", "c_index": 0.619, "low": 0.5, "high": 0.7}],
    "markers": [
        {"marker": "MKI67", "gene": "MKI67", "compartment": "nucleus", "ihc_slides": 3,
         "calibration_patients": 2, "test_patients": 1},
        {"marker": "CD8A", "gene": "CD8A", "compartment": "membrane", "ihc_slides": 0,
         "calibration_patients": 0, "test_patients": 0},
    ],
    "twins": [{"slug": "study-permuted", "label": "Permuted", "what": "Genes across patients."}],
    "artefacts": {"folds": 4, "out_of_focus": 3},
    "real_slide": None,
}  # fmt: skip


def plant(study: Study, **changes: Any) -> PlantedTruth:
    """The study becomes synthetic, with `TRUTH` and these changes to it behind its page."""
    study.synthetic = True
    study.save()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps(TRUTH | changes))
        artifact = store_artifact(job=add_job(study), path=path, kind=Artifact.Kind.TRUTH)
    return PlantedTruth.objects.create(study=study, artifact=artifact)
