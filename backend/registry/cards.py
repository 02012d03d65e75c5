"""Model and data cards from the records of this installation."""

from __future__ import annotations

import json
from typing import Any

from django.db.models import F

from backend.jobs.services import local
from backend.registry.evaluations import latest, looks
from backend.registry.models import Dataset, ModelVersion
from ml.evaluation.card_text import data_markdown, model_markdown


def model_card(model: ModelVersion) -> str:
    """The card of a model version as Markdown."""
    study = model.study
    evaluations = latest(model.evaluations.all())
    audits = [e.metrics.get("audit") for e in evaluations if e.metrics.get("audit")]
    return model_markdown(
        {
            "name": f"{model.name} of {study.name}",
            "config": model.config,
            "n_genes": model.metrics.get("n_genes"),
            "evaluations": [{"part": e.part, "metrics": _complete(e.metrics)} for e in evaluations],
            "audit": {**model.metrics.get("audit", {}), **(audits[0] if audits else {}),
                      "scope": model.metrics.get("scope")},
            "sections": [
                {"slide_code": t["slide"], "patient": t["patient"], "part": t["part"]}
                for t in _tables(model.dataset)
            ],
            "sha256": model.artifact.sha256,
            "status": model.status,
            "trained_at": model.created_at.date().isoformat(),
            "trained_by": model.created_by.display_name if model.created_by else None,
            "study": study.name,
            "synthetic": study.synthetic,
            "looks": looks(model).count(),
        }
    )  # fmt: skip


def _complete(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics with what a card needs, of versions that were scored by earlier software."""
    needed = ("pcc_median", "ceiling_pcc_median", "n_genes", "n_rows")
    return {**dict.fromkeys(needed), **metrics}


def data_card(dataset: Dataset) -> str:
    """The card of a dataset as Markdown."""
    study = dataset.study
    document = json.loads(local(dataset.artifact).read_text())
    panels = {t.get("panel_hash") for t in document.get("tables", ())} - {None}
    genes = {t.get("n_genes") for t in document.get("tables", ())} - {None}
    return data_markdown(
        {
            "name": f"Dataset version {dataset.version} of {study.name}",
            "study": {"name": study.name, "source": study.source, "limits": study.limits,
                      "synthetic": study.synthetic},
            "row_kind": dataset.row_kind,
            "split": dataset.get_split_display() if dataset.split else None,
            "tables": _tables(dataset),
            "sha256": dataset.artifact.sha256,
            "created_at": dataset.created_at.date().isoformat(),
            "n_genes": max(genes) if genes else None,
            "panel_hash": panels.pop() if len(panels) == 1 else None,
        }
    )  # fmt: skip


def _tables(dataset: Dataset) -> list[dict[str, Any]]:
    rows = dataset.tables.order_by("part", "pk").values(
        "part", "slide_sha256", "table_sha256",
        slide=F("table__slide__code"), n_rows=F("table__n_rows"), mpp=F("table__slide__mpp"),
        patient_code=F("patient__code"), site=F("patient__site"),
    )  # fmt: skip
    return [{**row, "patient": row.pop("patient_code"), "slide": row["slide"] or "(deleted)"}
            for row in rows]  # fmt: skip
