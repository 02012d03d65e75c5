"""Writes of studies: creating one from imported content, and giving people roles in it."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction

from backend.accounts.models import User
from backend.accounts.permissions import Action, Role
from backend.accounts.services import record
from backend.studies.content import StudyContent
from backend.studies.models import (
    ClinicalColumn,
    ClinicalValue,
    Endpoint,
    Membership,
    Outcome,
    Patient,
    Specimen,
    Study,
)
from backend.studies.selectors import can_import
from ml.errors import InputError

BATCH = 2000


@transaction.atomic
def create_study(*, actor: User, content: StudyContent) -> Study:
    """Create a study with its patients, clinical table, outcomes and specimens.

    `actor` becomes its admin. Raises PermissionDenied when they may not create studies, and
    InputError("study.exists") when the slug is taken: data of one study is never mixed into
    another's.
    """
    if not can_import(actor):
        raise PermissionDenied("Only staff may create studies.")
    head = content.study
    study = _new_study(content)
    Membership.objects.create(user=actor, study=study, role=Role.ADMIN)
    Endpoint.objects.bulk_create(
        Endpoint(study=study, **endpoint.model_dump()) for endpoint in head.endpoints
    )
    ClinicalColumn.objects.bulk_create(
        ClinicalColumn(study=study, position=position, **column.model_dump())
        for position, column in enumerate(head.clinical)
    )
    patients = Patient.objects.bulk_create(
        (
            Patient(study=study, **row.model_dump(include={"code", "site", "part"}))
            for row in content.patients
        ),
        batch_size=BATCH,
    )
    by_code = {patient.code: patient for patient in patients}
    _add_clinical_values(study, content, by_code)
    _add_outcomes(study, content, by_code)
    Specimen.objects.bulk_create(
        (
            Specimen(
                patient=by_code[row.patient],
                code=row.specimen,
                **row.model_dump(exclude={"patient", "specimen"}),
            )
            for row in content.specimens
        ),
        batch_size=BATCH,
    )
    record(
        actor=actor,
        action="study.create",
        study=study,
        subject=study,
        detail={"slug": study.slug, "patients": len(patients)},
    )
    return study


def refuse_slug(slug: str) -> None:
    """Raise InputError when a study of this slug exists, or the slug is an address of ours."""
    if slug == "import":
        raise InputError(
            "study.slug_reserved",
            'study.json "slug"',
            'The slug "import" is the address of the import page.',
            "Give the study another slug.",
        )
    if Study.objects.filter(slug=slug).exists():
        raise InputError(
            "study.exists",
            f'study.json "slug": {slug!r}',
            "A study of this slug exists already.",
            "Give the study another slug, or delete the existing study in the administration.",
        )


def _new_study(content: StudyContent) -> Study:
    head = content.study
    refuse_slug(head.slug)
    try:
        with transaction.atomic():
            return Study.objects.create(**head.model_dump(exclude={"endpoints", "clinical"}))
    except IntegrityError:
        refuse_slug(head.slug)  # taken by another import since we looked
        raise


def _add_clinical_values(study: Study, content: StudyContent, patients: dict[str, Patient]) -> None:
    columns = {column.name: column for column in study.clinical_columns.all()}
    values = (
        ClinicalValue(patient=patients[row.code], column=columns[name], **_typed(value))
        for row in content.patients
        for name, value in row.clinical.items()
        if value is not None
    )
    ClinicalValue.objects.bulk_create(values, batch_size=BATCH)


def _typed(value: float | str) -> dict[str, float | str]:
    return {"text": value} if isinstance(value, str) else {"number": value}


def _add_outcomes(study: Study, content: StudyContent, patients: dict[str, Patient]) -> None:
    endpoints = {endpoint.code: endpoint for endpoint in study.endpoints.all()}
    Outcome.objects.bulk_create(
        (
            Outcome(
                patient=patients[row.patient],
                endpoint=endpoints[row.endpoint],
                entry=row.entry,
                time=row.time,
                cause=row.cause,
            )
            for row in content.outcomes
        ),
        batch_size=BATCH,
    )


@transaction.atomic
def set_role(*, actor: User, study: Study, user: User, role: Role) -> Membership:
    """Give `user` a role in `study`, replacing the one they had."""
    if not study.allows(actor, Action.STUDY_EDIT):
        raise PermissionDenied("Only an admin of the study may give roles.")
    membership, _ = Membership.objects.update_or_create(
        study=study, user=user, defaults={"role": role}
    )
    record(
        actor=actor,
        action="study.set_role",
        study=study,
        subject=user,
        detail={"user": user.username, "role": str(role)},
    )
    return membership
