"""run.json: what a training was made of, so that it can be repeated and its model traced."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ml.errors import InputError
from ml.models.checkpoint import write_json
from ml.report import plain
from ml.training.config_file import RunConfig

FILE = "run.json"
# Libraries that the numbers depend on.
PACKAGES = (
    "past-workbench", "torch", "numpy", "scipy", "safetensors", "anndata", "zarr", "large-image",
    "tifffile", "imagecodecs",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """This machine: Python, packages, processor and GPUs."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(i) for i in gpus],
        "packages": {name: found for name in PACKAGES if (found := _installed(name))},
    }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def code() -> dict[str, Any]:
    """Version of the software: of the package, and the commit where it runs from a checkout."""
    root = Path(__file__).resolve().parents[2]
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    found: dict[str, Any] = {"past": _installed("past-workbench") or "unreleased", "commit": commit}
    if commit:
        found["changed"] = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    else:
        found["files_sha256"] = _files_hash(root)
    return found


def _git(root: Path, *words: str) -> str | None:
    """What git says, or None where it says nothing useful."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _files_hash(root: Path) -> str:
    """One hash over the package's Python files."""
    digest = hashlib.sha256()
    for path in sorted((root / "ml").rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class RunRecord:
    """The record of a training in its folder; it is there from the start and ends with the run.

    Args:
        data: hashes of what is trained on.
        ranks: processes that train together.

    A run that goes on after an interruption adds itself to ``sessions``.

    Raises:
        InputError: ``train.other_run`` when the folder holds one with another config.
    """

    def __init__(self, config: RunConfig, data: dict[str, Any], ranks: int) -> None:
        self._path = config.out / FILE
        began = _now()
        sessions = self._earlier(config)
        self._session: dict[str, Any] = {"started": began, "ended": None, "ranks": ranks}
        settings = asdict(config.settings)
        self.content: dict[str, Any] = {
            "config": {
                "file": str(config.path.absolute()),
                "given": config.given,
                "data": asdict(config.data),
                "model": asdict(config.model),
                "settings": settings,
            },
            "command": sys.argv,
            "code": code(),
            "data": data,
            "seeds": {"training": settings["seed"], "split": config.data.split_seed},
            "environment": environment(),
            "sessions": [*sessions, self._session],
        }

    def write(self) -> None:
        """Writes what is known by now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, plain(json.loads(json.dumps(self.content, default=str))))

    def end(self, **facts: Any) -> None:
        """Notes the end, and facts such as the metrics."""
        self._session["ended"] = _now()
        self.content |= facts
        self.write()

    def _earlier(self, config: RunConfig) -> list[dict[str, Any]]:
        """Sessions of the same training before this one."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            sessions: list[dict[str, Any]] = found["sessions"]
            given = found["config"]["given"]
        except (OSError, ValueError, KeyError):
            return []
        if given != plain(config.given):
            changed = [k for k in {**given, **config.given} if given.get(k) != config.given.get(k)]
            raise InputError(
                "train.other_run",
                str(config.out),
                f"It holds a training with another config (it differs in {', '.join(changed)}).",
                "Name another out folder, or delete this one.",
            )
        return sessions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
