"""What people do on the survival dashboard: save an analysis, delete one, fit a risk model."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction

from backend.accounts.models import User
from backend.accounts.permissions import Action
from backend.accounts.services import record
from backend.jobs.models import Job
from backend.jobs.services import start_job
from backend.studies.models import Study
from backend.survival.fitting import wanted_columns
from backend.survival.models import SurvivalAnalysis
from backend.survival.questions import FitParams, KaplanMeierRequest
from backend.survival.selectors import analysis_of, may_delete


@transaction.atomic
def save_analysis(
    *, user: User, study: Study, name: str, request: KaplanMeierRequest
) -> SurvivalAnalysis:
    """Keep a request under a name. It is computed once here, so that nothing is kept that fails.

    Raises PermissionDenied, and InputError when the request cannot be answered.
    """
    _require(study, user, Action.SURVIVAL_SAVE)
    analysis_of(study, request)
    saved = SurvivalAnalysis.objects.create(
        study=study, name=name, request=request.model_dump(mode="json"), created_by=user
    )
    record(
        actor=user,
        action="survival.save",
        subject=saved,
        study=study,
        detail={"name": name, "request": saved.request},
    )
    return saved


@transaction.atomic
def delete_analysis(*, user: User, analysis: SurvivalAnalysis) -> None:
    """Raises PermissionDenied unless the user saved it or is an admin of the study."""
    study = analysis.study
    _require(study, user, Action.SURVIVAL_SAVE)
    if not may_delete(user, study, analysis):
        raise PermissionDenied("Only who saved an analysis, or an admin, may delete it.")
    record(
        actor=user,
        action="survival.delete",
        subject=analysis,
        study=study,
        detail={"name": analysis.name, "request": analysis.request},
    )
    analysis.delete()


def start_fit(*, user: User, study: Study, params: dict[str, Any]) -> Job:
    """Start fitting a risk model; the job records itself in the audit trail.

    Raises PermissionDenied, pydantic.ValidationError, and InputError for an endpoint or column
    that the study lacks: told at once, not by a job that fails later.
    """
    _require(study, user, Action.SURVIVAL_FIT)
    valid = FitParams.model_validate(params)
    wanted_columns(study, valid)
    return start_job(
        user=user, kind="fit_survival", study=study, params=valid.model_dump(mode="json")
    )


def _require(study: Study, user: User, action: Action) -> None:
    if not study.allows(user, action):
        raise PermissionDenied(f"Your role in this study does not include {action}.")
