"""What of a computation is complete, for the attempt that goes on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Journal:
    """Numbers of the blocks that are complete, in a file that a killed process leaves usable.

    The first line says what the computation is of, and what was chosen for it; each further line
    is a block. A line that a kill cut off does not count. Another identity starts anew.

    Args:
        path: of the file.
        identity: everything that the blocks depend on, as JSON.
        choose: what is settled once and kept for later attempts (how many rows at a time), asked
            only where no attempt went before.

    Attributes:
        chosen: what was settled.
        done: blocks that are complete.
        resumed: whether an earlier attempt of this identity was found.
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        choose: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.path = path
        identity = json.loads(json.dumps(identity))
        lines = _whole_lines(path)
        head = _parsed(lines[0]) if lines else None
        self.resumed = isinstance(head, dict) and head.get("identity") == identity
        self.done: set[int] = set()
        if self.resumed:
            assert head is not None
            self.chosen: dict[str, Any] = head["chosen"]
            self.done = {int(line) for line in lines[1:]}
            with path.open("r+b") as file:
                file.truncate(sum(len(line) + 1 for line in lines))
        else:
            self.chosen = choose()
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            part.write_text(json.dumps({"identity": identity, "chosen": self.chosen}) + "\n")
            part.replace(path)
        self._file = path.open("ab", buffering=0)

    def add(self, block: int) -> None:
        """Notes a block whose results are on disk."""
        self._file.write(b"%d\n" % block)
        os.fdatasync(self._file.fileno())
        self.done.add(block)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _whole_lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
