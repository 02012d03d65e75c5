"""Which model version a study uses, per kind of row: every change is a recorded event."""

from __future__ import annotations

from backend.accounts.models import User
from backend.accounts.services import record
from backend.registry.models import ModelVersion, Promotion


def switch_to(model: ModelVersion, *, actor: User | None, reason: str) -> Promotion:
    """Make `model` the one its study uses; the one before is retired and can come back.

    The caller holds the study's row locked. Going back to a version that was in use before is
    recorded as a rollback.
    """
    peers = ModelVersion.objects.filter(study=model.study_id, row_kind=model.row_kind)
    replaced = peers.filter(status=ModelVersion.Status.PROMOTED).exclude(pk=model.pk).first()
    if replaced:
        replaced.status = ModelVersion.Status.RETIRED
        replaced.save(update_fields=["status"])
    rollback = model.status == ModelVersion.Status.RETIRED
    model.status = ModelVersion.Status.PROMOTED
    model.save(update_fields=["status"])
    promotion = Promotion.objects.create(
        model_version=model,
        kind=Promotion.Kind.ROLLBACK if rollback else Promotion.Kind.PROMOTE,
        replaced=replaced,
        actor=actor,
        reason=reason,
        metrics={
            "promoted": {"version": model.version, "metrics": model.metrics},
            "replaced": replaced and {"version": replaced.version, "metrics": replaced.metrics},
        },
    )
    record(
        actor=actor,
        action=f"model.{promotion.kind}",
        study=model.study,
        subject=model,
        detail={
            "version": model.version,
            "replaced": replaced and replaced.version,
            "reason": reason,
        },
    )
    return promotion
