"""Figures of a training as a file: a JSON line each, and TensorBoard's format where it is there."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ml.training.distributed import Ranks

NAME = "metrics.jsonl"


class Metrics:
    """Appends figures to ``metrics.jsonl`` of a folder, and to ``tensorboard/`` beside it.

    A resumed training cuts the file back to where its checkpoint was, so that no step is there
    twice. Only the first rank writes; without a folder nobody does.
    """

    def __init__(self, folder: Path | None, ranks: Ranks | None = None) -> None:
        self._path: Path | None = None
        self._board: Any = None
        if folder is None or (ranks is not None and not ranks.first):
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / NAME
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder / "tensorboard")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Figures of a step."""
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    @property
    def size(self) -> int:
        """Bytes that are written."""
        return self._path.stat().st_size if self._path and self._path.exists() else 0

    def cut(self, size: int) -> None:
        """Back to what was written when the file had `size` bytes."""
        if self._path is not None and self._path.exists():
            with self._path.open("r+b") as file:
                file.truncate(size)
