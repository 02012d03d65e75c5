"""The evaluation page: whether a version beats its baselines, where it fails, beside the others."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from backend.accounts.permissions import Action, allows
from backend.registry import selectors
from backend.registry.evaluations import latest, looks, newest_test, test_slides
from backend.registry.gate import findings, gate_of
from backend.registry.models import Evaluation, ModelVersion, Part
from backend.studies.selectors import page_context, study_for

NULLS = {"permuted": "null: rows permuted", "shifted": "null: shifted by half a slide"}


SPLITS = ("random rows", "blocks", "patients", "sites")  # the least honest first
METHODS = ("probe", "appearance", "majority")


@require_safe
def evaluation(request: HttpRequest, model_id: int) -> HttpResponse:
    model = selectors.model_for(request.user, model_id)
    study = study_for(request.user, model.study.slug)
    shown = _shown(model, request.GET.get("part", Part.TEST))
    gate = gate_of(model)
    context = page_context(study) | {
        "model": model,
        "shown": shown,
        "parts": latest(model.evaluations.all()),
        "label": selectors.held_out_label(shown.dataset, shown.part) if shown else "",
        "metrics": shown.metrics if shown else {},
        "verdict": verdict(shown.metrics) if shown else None,
        "predictors": predictors(shown.metrics, model.name) if shown else [],
        "splits": _ordered(shown, SPLITS, "splits") if shown else [],
        "type_methods": _ordered(shown, METHODS, "cell_types", "methods") if shown else [],
        "audit": (shown and shown.metrics.get("audit")) or model.metrics.get("audit"),
        "versions": versions(model),
        "looks": looks(model),
        "gate": gate,
        "findings": findings(model, gate),
        "page": _page(model, shown) if shown else {},
        "evaluate_url": reverse("api-evaluate", args=[model.pk]),
    }
    if shown and allows(study.role, Action.SLIDE_VIEW):
        context["regions"] = _regions(shown, model)
    return render(request, "registry/evaluation.html", context)


def _shown(model: ModelVersion, part: str) -> Evaluation | None:
    found = latest(model.evaluations.all())
    return next((e for e in found if e.part == part), found[0] if found else None)


def _ordered(
    shown: Evaluation, names: tuple[str, ...], *chapter: str
) -> list[tuple[str, dict[str, Any]]]:
    """Entries of a chapter in an order of ours: the database keeps none."""
    found = shown.metrics
    for name in chapter:
        found = found.get(name, {})
    return [(name, found[name]) for name in names if name in found]


def verdict(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Against whom the version is ahead, behind, or not to be told apart; None without tests."""
    told = [b for b in metrics.get("baselines", {}).values() if b.get("verdict")]
    if not told:
        return None
    groups: dict[str, list[str]] = {"ahead": [], "behind": [], "cannot tell": []}
    for baseline in told:
        groups[baseline["verdict"]].append(baseline.get("title", ""))
    kind = "behind" if groups["behind"] else "cannot tell" if groups["cannot tell"] else "ahead"
    return {
        "kind": kind.replace(" ", "-"),
        "n": len(told),
        "ahead": groups["ahead"],
        "behind": groups["behind"],
        "unclear": groups["cannot tell"],
    }


def predictors(metrics: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Rows of the table: the version first, baselines from best to worst, then what is no rival."""
    spatial = metrics.get("spatial", {})
    own = {"title": name, "own": True, **metrics, "spatial_pcc_median": spatial.get("pcc_median")}
    listed = [b | {"key": key, "title": b.get("title") or key.replace("_", " ")}
              for key, b in metrics.get("baselines", {}).items()]  # fmt: skip
    listed.sort(key=lambda b: -(b.get("pcc_median") or 0.0))
    fair = [b for b in listed if b.get("fair", True)]
    rest = [b | {"oracle": True} for b in listed if not b.get("fair", True)]
    nulls = [{"title": NULLS.get(key, key), "null": True, **of}
             for key, of in metrics.get("controls", {}).items()]  # fmt: skip
    ceiling = {"title": "split-half ceiling of the assay", "oracle": True,
               "pcc_median": metrics.get("ceiling_pcc_median")}  # fmt: skip
    return [own, *fair, *rest, ceiling, *nulls]


def versions(model: ModelVersion) -> list[dict[str, Any]]:
    """The study's versions for the same kind of row with their newest scores, newest first."""
    peers = [m for m in selectors.models_of(model.study) if m.row_kind == model.row_kind]
    scores = newest_test(peers)
    own = test_slides(model)
    rows = []
    for peer in peers:
        metrics = scores[peer.pk].metrics if peer.pk in scores else {}
        types = metrics.get("cell_types", {}).get("methods", {}).get("probe", {})
        rows.append(
            {
                "model": peer,
                "metrics": metrics,
                "verdict": verdict(metrics),
                "coverage": metrics.get("uncertainty", {}).get("coverage", {}).get("overall"),
                "macro_f1": types.get("macro_f1"),
                "comparable": peer.pk == model.pk or test_slides(peer) == own,
            }
        )
    return rows


def _regions(shown: Evaluation, model: ModelVersion) -> list[dict[str, Any]]:
    """Worst regions with the address of the slide viewer at each."""
    regions = shown.metrics.get("worst_regions", [])
    codes = {region["slide"] for region in regions}
    ids = dict(model.study.slides.filter(code__in=codes).values_list("code", "pk"))
    found = []
    for region in regions:
        place = f"?x={region['x']:.0f}&y={region['y']:.0f}&m=20&gene={region['genes'][0]}"
        slide = ids.get(region["slide"])
        found.append(region | {"url": reverse("slide", args=[slide]) + place if slide else ""})
    return found


def _page(model: ModelVersion, shown: Evaluation) -> dict[str, Any]:
    metrics = shown.metrics
    urls = [model.pk, shown.pk]
    return {
        "name": model.name,
        "genes": selectors.gene_scores(shown),
        "titles": {k: b.get("title", k) for k, b in metrics.get("baselines", {}).items()},
        "oracles": [k for k, b in metrics.get("baselines", {}).items() if not b.get("fair", True)],
        "controls": metrics.get("controls", {}),
        "robustness": metrics.get("robustness"),
        "errors": metrics.get("uncertainty", {}).get("errors", {}).get("dropped"),
        "full": bool(metrics.get("full")),
        "gene_url": reverse("api-evaluation-gene", args=[*urls, "GENE"]),
        "evaluate_url": reverse("api-evaluate", args=[model.pk]),
        "gate_url": reverse("api-gate", args=[model.study.slug]),
    }
