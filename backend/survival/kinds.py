"""The job kind of this app."""

from __future__ import annotations

from backend.accounts.permissions import Action
from backend.jobs.kinds import JobKind, register
from backend.survival.fitting import commit_fit, prepare_fit
from backend.survival.questions import FitParams


def _title(params: FitParams) -> str:
    n = len(params.clinical) + len(params.features)
    return f"Fit a risk model of {params.endpoint} on {n} column{'s' if n != 1 else ''}"


def register_kinds() -> None:
    register(
        JobKind(
            name="fit_survival",
            params=FitParams,
            prepare=prepare_fit,
            commit=commit_fit,
            queue="cpu",
            action=Action.SURVIVAL_FIT,
            title=_title,
        )
    )
