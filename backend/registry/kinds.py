"""The job kinds of this app."""

from __future__ import annotations

from pathlib import PurePath

from backend.accounts.permissions import Action
from backend.jobs.kinds import JobKind, register
from backend.registry.content import EvaluateParams, ImportParams, PredictParams, TrainParams
from backend.registry.evaluations import commit_evaluation, prepare_evaluation
from backend.registry.imports import commit_import, prepare_import
from backend.registry.models import ModelVersion
from backend.registry.predictions import commit_prediction, prepare_prediction
from backend.registry.training import commit_training, prepare_training


def _import_title(params: ImportParams) -> str:
    return f"Import {PurePath(params.path).name or params.path}"


def _train_title(params: TrainParams) -> str:
    return f"Train on {params.row_kind}s" if params.row_kind else "Train a model"


def _predict_title(params: PredictParams) -> str:
    n = len(params.slides)
    return f"Predict {params.slides[0]}" if n == 1 else f"Predict {n} slides"


def _evaluate_title(params: EvaluateParams) -> str:
    model = ModelVersion.objects.filter(pk=params.model).first()
    return f"Evaluate {model.name}" if model else "Evaluate a model"


def register_kinds() -> None:
    register(
        JobKind(
            name="import",
            params=ImportParams,
            prepare=prepare_import,
            commit=commit_import,
            queue="cpu",
            action=Action.STUDY_IMPORT,
            title=_import_title,
        )
    )
    register(
        JobKind(
            name="train",
            params=TrainParams,
            prepare=prepare_training,
            commit=commit_training,
            queue="gpu",
            action=Action.MODEL_TRAIN,
            title=_train_title,
        )
    )
    register(
        JobKind(
            name="evaluate",
            params=EvaluateParams,
            prepare=prepare_evaluation,
            commit=commit_evaluation,
            queue="gpu",
            action=Action.MODEL_TRAIN,
            title=_evaluate_title,
        )
    )
    register(
        JobKind(
            name="predict",
            params=PredictParams,
            prepare=prepare_prediction,
            commit=commit_prediction,
            queue="gpu",
            action=Action.PREDICT_RUN,
            title=_predict_title,
        )
    )
