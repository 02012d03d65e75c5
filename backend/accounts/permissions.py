"""The permission table: role × action. Checks and tests are made from it and from nothing else."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    MEMBER = "member"
    INVESTIGATOR = "investigator"
    ADMIN = "admin"


class Action(StrEnum):
    STUDY_VIEW = "study.view"
    STUDY_EDIT = "study.edit"
    STUDY_IMPORT = "study.import"
    SLIDE_VIEW = "slide.view"
    CELLS_VIEW = "cells.view"
    JOB_VIEW = "job.view"
    JOB_CANCEL = "job.cancel"
    MODEL_VIEW = "model.view"
    MODEL_TRAIN = "model.train"
    MODEL_PROMOTE = "model.promote"
    PREDICT_RUN = "predict.run"
    SURVIVAL_VIEW = "survival.view"
    SURVIVAL_SAVE = "survival.save"
    SURVIVAL_FIT = "survival.fit"


_EVERYONE = frozenset(Role)
_INVESTIGATORS = frozenset({Role.INVESTIGATOR, Role.ADMIN})
_ADMINS = frozenset({Role.ADMIN})

PERMISSIONS: dict[Action, frozenset[Role]] = {
    Action.STUDY_VIEW: _EVERYONE,
    Action.STUDY_EDIT: _ADMINS,
    Action.STUDY_IMPORT: _ADMINS,
    Action.SLIDE_VIEW: _EVERYONE,
    Action.CELLS_VIEW: _EVERYONE,
    Action.JOB_VIEW: _EVERYONE,
    Action.JOB_CANCEL: _ADMINS,
    Action.MODEL_VIEW: _EVERYONE,
    Action.MODEL_TRAIN: _ADMINS,
    Action.MODEL_PROMOTE: _ADMINS,
    Action.PREDICT_RUN: _ADMINS,
    Action.SURVIVAL_VIEW: _INVESTIGATORS,
    Action.SURVIVAL_SAVE: _INVESTIGATORS,
    Action.SURVIVAL_FIT: _INVESTIGATORS,
}


def allows(role: str | None, action: Action) -> bool:
    """True when `role` (None: not a member of the study) may do `action`."""
    return role is not None and Role(role) in PERMISSIONS[action]
