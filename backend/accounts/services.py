"""Writes of accounts: the audit trail and the people themselves."""

from __future__ import annotations

from typing import Any

from django.db import models, transaction

from backend.accounts.models import AuditEvent, User


def record(
    *,
    actor: User | None,
    action: str,
    subject: models.Model | str,
    study: models.Model | None = None,
    detail: dict[str, Any] | None = None,
) -> AuditEvent:
    """Add to the audit trail; call it in the transaction of what it tells of.

    Args:
        actor: who did it; None for the system.
        action: what was done, e.g. "model.promote".
        subject: what it was done to, a row or "type:id".
        study: the study it belongs to, if any.
        detail: what else a reader of the trail needs, as JSON.
    """
    if isinstance(subject, models.Model):
        subject = f"{subject._meta.model_name}:{subject.pk}"
    return AuditEvent.objects.create(
        actor=actor,
        action=action,
        subject=subject,
        study_id=study.pk if study else None,
        detail=detail or {},
    )


@transaction.atomic
def put_user(
    *, username: str, password: str, full_name: str, staff: bool = False, superuser: bool = False
) -> User:
    """Create the user, or give the existing one this password, name and standing."""
    first, _, last = full_name.partition(" ")
    user, created = User.objects.get_or_create(username=username)
    user.first_name, user.last_name = first, last
    user.is_staff, user.is_superuser = staff, superuser
    if not user.check_password(password):  # a new hash of the same password would end sessions
        user.set_password(password)
    user.save()
    record(actor=None, action="user.create" if created else "user.update", subject=user)
    return user
