"""What people do with data and models: import a study, train, predict, promote."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import transaction

from backend.accounts.models import User
from backend.accounts.permissions import Action
from backend.accounts.services import record
from backend.jobs.models import Job
from backend.jobs.services import start_job
from backend.registry.content import (
    EvaluateParams,
    GateParams,
    ImportParams,
    PredictParams,
    TrainParams,
)
from backend.registry.evaluations import check_can_evaluate
from backend.registry.gate import check_gate
from backend.registry.imports import checked_path
from backend.registry.models import ModelVersion, Promotion, PromotionGate
from backend.registry.predictions import chosen_slides, model_of
from backend.registry.promotion import switch_to
from backend.studies.models import Study
from backend.studies.selectors import can_import
from ml.errors import InputError


def request_import(*, user: User, params: dict[str, Any]) -> Job:
    """Start importing a folder on the server that somebody named from afar.

    Raises PermissionDenied, pydantic.ValidationError, and InputError for a path outside
    `settings.IMPORT_ROOTS`.
    """
    if not can_import(user):
        raise PermissionDenied("Only staff may import studies.")
    valid = ImportParams.model_validate(params)
    return start_import(user=user, path=checked_path(valid.path), form=valid.format)


def start_import(*, user: User, path: str, form: str) -> Job:
    """Start importing any folder this server can read: for people at its command line."""
    params = {"path": path, "format": form}
    return start_job(user=user, kind="import", study=None, params=params)


def start_training(*, user: User, study: Study, params: dict[str, Any]) -> Job:
    """Raises PermissionDenied and pydantic.ValidationError; the job tells what cannot be split."""
    valid = TrainParams.model_validate(params).model_dump(mode="json")
    return start_job(user=user, kind="train", study=study, params=valid)


def start_prediction(*, user: User, study: Study, params: dict[str, Any]) -> Job:
    """Raises PermissionDenied, pydantic.ValidationError, and InputError for an unknown model or
    slide: told at once, not by a job that fails later."""
    if not study.allows(user, Action.PREDICT_RUN):
        raise PermissionDenied(f"Your role does not include {Action.PREDICT_RUN}.")
    valid = PredictParams.model_validate(params)
    model_of(study, valid.model)
    chosen_slides(study, valid.slides)
    return start_job(user=user, kind="predict", study=study, params=valid.model_dump(mode="json"))


def start_evaluation(*, user: User, model: ModelVersion, params: dict[str, Any]) -> Job:
    """Start the full report of a model version on the held-out part of its dataset.

    Raises PermissionDenied, pydantic.ValidationError, and InputError where nothing is held out.
    """
    if not model.study.allows(user, Action.MODEL_TRAIN):
        raise PermissionDenied(f"Your role does not include {Action.MODEL_TRAIN}.")
    valid = EvaluateParams.model_validate({**params, "model": model.pk})
    check_can_evaluate(model)
    return start_job(
        user=user, kind="evaluate", study=model.study, params=valid.model_dump(mode="json")
    )


@transaction.atomic
def set_gate(*, user: User, study: Study, params: dict[str, Any]) -> PromotionGate:
    """Set what a model version must show before it can be promoted; the change is recorded.

    Raises PermissionDenied and pydantic.ValidationError.
    """
    if not study.allows(user, Action.MODEL_PROMOTE):
        raise PermissionDenied(f"Your role does not include {Action.MODEL_PROMOTE}.")
    valid = GateParams.model_validate(params).model_dump()
    gate, _ = PromotionGate.objects.update_or_create(
        study=study, defaults={**valid, "set_by": user}
    )
    record(actor=user, action="model.gate", study=study, subject=gate, detail=valid)
    return gate


@transaction.atomic
def promote(*, user: User, model: ModelVersion, reason: str) -> Promotion:
    """Make a model version the one its study uses, or go back to an earlier one.

    Raises PermissionDenied, and InputError when it is in use already or no reason is given.
    """
    study = Study.objects.select_for_update().get(pk=model.study_id)
    if not study.allows(user, Action.MODEL_PROMOTE):
        raise PermissionDenied(f"Your role does not include {Action.MODEL_PROMOTE}.")
    model = study.model_versions.select_related("study").get(pk=model.pk)
    if model.status == ModelVersion.Status.PROMOTED:
        raise InputError(
            "promote.in_use",
            model.name,
            "The study uses this model version already.",
            "Choose another version.",
        )
    if not reason.strip():
        raise InputError(
            "promote.no_reason",
            '"reason"',
            "A change of the model in use needs a reason, which is recorded.",
            "Say in a sentence why this version is better.",
        )
    check_gate(model)
    return switch_to(model, actor=user, reason=reason.strip())
