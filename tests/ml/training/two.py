"""Two processes that train together on the CPU, as torchrun would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def both_end(module: str, *words: str) -> list[int]:
    """Runs a module in two processes, and returns how each of them ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port, "OMP_NUM_THREADS": 1}  # fmt: skip
        environment = {**os.environ, **{k: str(v) for k, v in given.items()}}
        command = [sys.executable, "-m", module, *words]
        children.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    return [child.wait(240) for child in children]
