"""The page "What was planted": the generator's document beside what the model in use found."""

from __future__ import annotations

from statistics import median
from typing import Any

from django.urls import reverse

from backend.accounts.models import User
from backend.accounts.permissions import Action, allows
from backend.registry.models import ModelVersion, Part
from backend.registry.planted import declined_on
from backend.registry.selectors import (
    evaluation_of,
    gene_scores,
    held_out_label,
    promoted_model,
)
from backend.studies.models import Study

LINKS = {
    "morphology": "how the cell itself looks",
    "surroundings": "which cells stand nearby",
    "nothing": "nothing that can be seen",
}
OUTCOMES = ("fitted", "oracle_risk")  # parts of the document that follow from outcomes
# Below this, what is found divided by what is possible is noise over noise.
LEAST_POSSIBLE = 0.1


def without_outcomes(truth: dict[str, Any]) -> dict[str, Any]:
    """The document for readers who may not see survival: what was planted, not what came of it."""
    kept = {name: part for name, part in truth.items() if name not in OUTCOMES}
    sites = [
        {name: value for name, value in site.items() if name not in ("events", "median_months")}
        for site in truth["sites"]
    ]
    return kept | {"sites": sites}


def planted_page(user: User, study: Study, truth: dict[str, Any]) -> dict[str, Any]:
    """What the template shows; `page` holds what the figures are drawn from."""
    model = promoted_model(study)
    genes = _genes(truth, model)
    real_slide = study.slides.filter(code=truth["real_slide"] or "").first()
    shows_survival = allows(study.role, Action.SURVIVAL_VIEW)
    hazards = _hazards(truth)
    return {
        "truth": truth,
        "n_cells": sum(cell["n"] for cell in truth["cells"]),
        "n_patients": sum(site["patients"] for site in truth["sites"]),
        "n_slides": sum(site["slides"] for site in truth["sites"]),
        "links": _by_link(genes),
        "hazards": hazards,
        "model": model,
        "scored_on": held_out_label(model.dataset, Part.TEST) if model else "",
        "has_scores": any(gene["found"] is not None for gene in genes),
        "twins": _twins(user, study, truth),
        "real_slide": real_slide,
        "declined": declined_on([real_slide]).get(real_slide.pk, []) if real_slide else [],
        "shows_survival": shows_survival,
        "page": {
            "cells": truth["cells"],
            "contact": truth["contact"],
            "hazards": hazards,
            "genes": genes,
        },
    }


def _genes(truth: dict[str, Any], model: ModelVersion | None) -> list[dict[str, Any]]:
    """The planted genes with Pearson possible (the oracle's) and found, and their ratio."""
    evaluation = evaluation_of(model, Part.TEST) if model else None
    found = {s["gene"]: s["pcc"] for s in gene_scores(evaluation)} if evaluation else {}
    refused = set(model.metrics.get("not_predictable", ())) if model else set()
    return [
        {
            "symbol": gene["symbol"],
            "link": gene["link"],
            "follows": gene["follows"],
            "possible": gene["oracle_pcc"],
            "found": found.get(gene["symbol"]),
            "share": _share(found.get(gene["symbol"]), gene["oracle_pcc"]),
            "not_predictable": gene["symbol"] in refused,
        }
        for gene in truth["genes"]
    ]


def _share(found: float | None, possible: float | None) -> float | None:
    if found is None or possible is None or possible < LEAST_POSSIBLE:
        return None
    return found / possible


def _by_link(genes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per link: how many genes, the medians possible and found, and how many were refused."""
    rows = []
    for link, follows in LINKS.items():
        own = [gene for gene in genes if gene["link"] == link]
        rows.append(
            {
                "link": link,
                "follows": follows,
                "n": len(own),
                "possible": _median(own, "possible"),
                "found": _median(own, "found"),
                "not_predictable": sum(gene["not_predictable"] for gene in own),
            }
        )
    return rows


def _median(genes: list[dict[str, Any]], name: str) -> float | None:
    values = [gene[name] for gene in genes if gene[name] is not None]
    return median(values) if values else None


def _hazards(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """The planted log hazard ratios, each with its Cox fit where the reader may see outcomes."""
    fitted = {fit["term"]: fit for fit in truth.get("fitted", ())}
    return [
        {
            "label": hazard["label"],
            "within": hazard["label"][:1].lower() + hazard["label"][1:],  # a sentence
            "unit": hazard["unit"],
            "planted": hazard["log_hazard_ratio"],
            "fitted": fitted.get(hazard["term"], {}).get("log_hazard_ratio"),
            "low": fitted.get(hazard["term"], {}).get("low"),
            "high": fitted.get(hazard["term"], {}).get("high"),
        }
        for hazard in truth["hazards"]
    ]


def _twins(user: User, study: Study, truth: dict[str, Any]) -> list[dict[str, Any]]:
    """The null twins: the address of those that are imported and that the reader may see, and how
    the folder of the others is called."""
    slugs = {twin["slug"] for twin in truth["twins"]}
    there = set(
        Study.objects.visible_to(user).filter(slug__in=slugs).values_list("slug", flat=True)
    )
    return [
        twin
        | {
            "url": reverse("study", args=[twin["slug"]]) if twin["slug"] in there else "",
            "ending": twin["slug"].removeprefix(study.slug),
        }
        for twin in truth["twins"]
    ]
