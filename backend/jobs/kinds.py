"""Kinds of job. This app knows none: the others register theirs in `AppConfig.ready()`.

A kind is three functions. `prepare` (worker) turns rows into paths and hashes; `run` lives in `ml`
under the kind's name and runs in a child process that knows neither Django nor credentials;
`commit` (worker) turns what it wrote into rows, inside one transaction fenced by the lease.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from backend.accounts.permissions import Action
from backend.jobs.models import Job


@dataclass(frozen=True)
class Spec:
    """What `ml.run` gets: both as JSON, paths as strings."""

    params: dict[str, Any]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class JobKind:
    """
    Args:
        name: of the kind, here and in `ml.run`.
        params: the pydantic model of `Job.parameters`.
        prepare: rows → `Spec`; raises InputError.
        commit: (job, result of `run`, folder it wrote to) → `Job.result`; raises InputError. What
            it returns may hold "links": [{"label", "url"}].
        queue: where it waits.
        action: what the user must be allowed to do in the job's study.
        title: the validated parameters → the title people read.
    """

    name: str
    params: type[BaseModel]
    prepare: Callable[[Job], Spec]
    commit: Callable[[Job, dict[str, Any], Path], dict[str, Any]]
    queue: Literal["cpu", "gpu"]
    action: Action
    title: Callable[[Any], str]


_KINDS: dict[str, JobKind] = {}


def register(kind: JobKind) -> None:
    if kind.name in _KINDS:
        raise ValueError(f"The job kind {kind.name!r} is registered twice.")
    _KINDS[kind.name] = kind


def get(name: str) -> JobKind:
    """Raises LookupError when no app registered the kind."""
    if name not in _KINDS:
        raise LookupError(f"No part of this installation knows the job kind {name!r}.")
    return _KINDS[name]


def action_of(name: str) -> Action | None:
    """What one must be allowed to do to start the kind; None when no app knows it any more."""
    return _KINDS[name].action if name in _KINDS else None
