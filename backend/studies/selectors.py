"""Reads of studies and their cohorts. Whatever a user may not see is not found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Count, F, IntegerField, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.http import Http404

from backend.accounts.models import User
from backend.accounts.permissions import PERMISSIONS, Action, Role, allows
from backend.studies.models import (
    ClinicalColumn,
    ClinicalValue,
    Membership,
    Outcome,
    Patient,
    Study,
)


def studies_for(user: User) -> QuerySet[Study]:
    """The user's studies, each with `role`, `n_patients`, `n_slides` and `n_models`."""
    return Study.objects.visible_to(user).annotate(
        role=role_in(user, "pk"),
        n_patients=_count("patients"),
        n_slides=_count("slides"),
        n_models=_count("model_versions"),
    )


def role_in(user: User, study: str) -> Any:
    """An annotation: the user's role in the study that the path `study` leads to."""
    if user.is_superuser:
        return Value(str(Role.ADMIN))
    return Subquery(Membership.objects.filter(study=OuterRef(study), user=user).values("role")[:1])


def _count(relation: str) -> Coalesce:
    """Rows of one relation, as a subquery: joins of several relations would multiply."""
    counted = (
        Study.objects.filter(pk=OuterRef("pk"))
        .order_by()
        .values("pk")
        .annotate(n=Count(relation))
        .values("n")
    )
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)


def study_for(user: User, slug: str, action: Action = Action.STUDY_VIEW) -> Study:
    """The study with `role` and counts.

    Raises Http404 when `user` may not see it, PermissionDenied when their role lacks `action`.
    """
    study = studies_for(user).filter(slug=slug).first()
    if study is None:
        raise Http404("No such study.")
    require(study.role, action)
    return study


def require(role: str | None, action: Action) -> None:
    """Raise PermissionDenied unless the permission table opens `action` to `role`."""
    if not allows(role, action):
        raise PermissionDenied(f"Your role in this study does not include {action}.")


def allowed_actions(role: str | None) -> set[str]:
    """The actions that `role` opens in a study, as strings such as "model.train"."""
    return {str(action) for action in PERMISSIONS if allows(role, action)}


def page_context(study: Study) -> dict[str, Any]:
    """What every page of a study passes to base.html; `study` comes from `study_for`."""
    return {"study": study, "role": study.role, "allowed": allowed_actions(study.role)}


def can_import(user: User) -> bool:
    """Whoever may create studies: an import makes one, and its creator becomes its admin."""
    return user.is_staff


def patients_of(study: Study, *, search: str = "", site: str = "") -> QuerySet[Patient]:
    """Patients of a study with clinical values and outcomes at hand, ordered by code."""
    patients = study.patients.order_by("code")
    if search:
        patients = patients.filter(code__icontains=search)
    if site:
        patients = patients.filter(site=site)
    return patients.annotate(n_slides=Count("specimens__slides", distinct=True))


def clinical_columns(study: Study) -> list[dict[str, Any]]:
    """Name, label, kind, unit and levels of each clinical column, in the study's order."""
    columns: QuerySet[ClinicalColumn] = study.clinical_columns.all()
    return list(columns.values("name", "label", "kind", "unit", "levels"))


def endpoints(study: Study) -> list[dict[str, Any]]:
    return list(study.endpoints.values("code", "label", "time_zero", "causes"))


def patient_rows(patients: Iterable[Patient]) -> list[dict[str, Any]]:
    """Rows for the cohort table: two queries for values and outcomes, however many patients.

    `values` maps column name to number or text (missing: no key); `outcomes` maps endpoint code to
    entry and time in months and the cause (0: censored).
    """
    patients = list(patients)
    rows = {
        patient.pk: {
            "patient": patient.code,
            "site": patient.site,
            "part": patient.part,
            "n_slides": patient.n_slides,
            "values": {},
            "outcomes": {},
        }
        for patient in patients
    }
    values = ClinicalValue.objects.filter(patient__in=rows).values_list(
        "patient_id", "column__name", "number", "text"
    )
    for patient_id, column, number, text in values:
        rows[patient_id]["values"][column] = text if number is None else number
    outcomes = Outcome.objects.filter(patient__in=rows).values(
        "patient_id", "entry", "time", "cause", code=F("endpoint__code")
    )
    for outcome in outcomes:
        rows[outcome.pop("patient_id")]["outcomes"][outcome.pop("code")] = outcome
    return [rows[patient.pk] for patient in patients]


def cohort(study: Study) -> dict[str, Any]:
    """The whole cohort table: columns, endpoints and rows, each with its slides' codes and ids."""
    patients = list(patients_of(study))
    rows = patient_rows(patients)
    slides: dict[str, list[dict[str, Any]]] = {patient.code: [] for patient in patients}
    found = study.slides.order_by("code").values("id", "code", patient=F("specimen__patient__code"))
    for slide in found:
        slides[slide.pop("patient")].append(slide)
    for row in rows:
        row["slides"] = slides[row["patient"]]
    return {"columns": clinical_columns(study), "endpoints": endpoints(study), "rows": rows}
