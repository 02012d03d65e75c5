"""The gate: what a model version must show before it can be promoted."""

from __future__ import annotations

from dataclasses import dataclass

from backend.registry.evaluations import newest_test, test_slides
from backend.registry.models import ModelVersion, PromotionGate
from ml.errors import InputError


@dataclass(frozen=True)
class Finding:
    """One rule of the gate: whether it holds, and what was found, in a sentence."""

    rule: str
    holds: bool
    found: str


def gate_of(model: ModelVersion) -> PromotionGate | None:
    return PromotionGate.objects.filter(study=model.study_id).select_related("set_by").first()


def findings(model: ModelVersion, gate: PromotionGate | None) -> list[Finding]:
    """What the study's gate finds of a model version; nothing where no gate is set."""
    if gate is None:
        return []
    peers = ModelVersion.objects.filter(study=model.study_id, row_kind=model.row_kind)
    in_use = (
        peers.filter(status=ModelVersion.Status.PROMOTED)
        .exclude(pk=model.pk)
        .select_related("dataset")
        .first()
    )
    scores = newest_test([model, *([in_use] if in_use else [])])
    own = scores[model.pk].metrics if model.pk in scores else {}
    found = []
    if gate.full_report:
        found.append(_full_report(own))
    if gate.median_not_worse and in_use:
        other = scores[in_use.pk].metrics if in_use.pk in scores else {}
        found.append(_not_worse(model, in_use, own, other, gate.margin))
    if gate.no_baseline_ahead:
        found.append(_no_baseline_ahead(own))
    return found


def _full_report(own: dict) -> Finding:
    made = bool(own.get("full"))
    text = "It has been made." if made else "It has not been made: evaluate the version first."
    return Finding("Full report on the held-out part", made, text)


def _not_worse(
    model: ModelVersion, in_use: ModelVersion, own: dict, other: dict, margin: float
) -> Finding:
    rule = f"Median Pearson not below {in_use.name}, the version in use"
    if margin:
        rule += f", by more than {margin:g}"
    if test_slides(model) != test_slides(in_use):
        return Finding(
            rule,
            False,
            "They were scored on different held-out slides and cannot be compared.",
        )
    ours, theirs = own.get("pcc_median"), other.get("pcc_median")
    if ours is None or theirs is None:
        return Finding(rule, False, "One of them has no score.")
    return Finding(rule, ours >= theirs - margin, f"{ours:.3f} against {theirs:.3f}.")


def _no_baseline_ahead(own: dict) -> Finding:
    rule = "No baseline ahead"
    told = {n: b for n, b in own.get("baselines", {}).items() if b.get("verdict")}
    if not told:
        return Finding(rule, False, "It was compared with no baseline.")
    ahead = [b.get("title", name) for name, b in told.items() if b["verdict"] == "behind"]
    if ahead:
        return Finding(rule, False, f"Ahead of it: {', '.join(ahead)}.")
    return Finding(rule, True, f"None of {len(told)} baselines is.")


def check_gate(model: ModelVersion) -> None:
    """Raises InputError ``promote.gate`` for a version that does not pass its study's gate."""
    failed = [f for f in findings(model, gate_of(model)) if not f.holds]
    if failed:
        raise InputError(
            "promote.gate",
            model.name,
            "It does not pass the study's gate. "
            + " ".join(f"{f.rule}: {f.found}" for f in failed),
            "Evaluate or train a version that passes, or have an admin change the gate.",
        )
