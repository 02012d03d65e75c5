"""The whole application in a folder of its own: Postgres, broker, workers and web on a free port.

The smoke run, the browser tests and the benchmark start it as a user would, through manage.py and
the supervisor; nothing in it is replaced.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PASSWORDS = {"member": "demo-member", "investigator": "demo-investigator", "admin": "demo-admin"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Instance:
    """Use as a context manager; `url` is the address of the web application."""

    def __init__(self, var: Path) -> None:
        self.var = var
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "BROKER_URL")},
            "PAST_VAR": str(var),
            "DJANGO_SETTINGS_MODULE": "backend.config.settings.dev",
        }
        self._supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Instance:
        self.var.mkdir(parents=True, exist_ok=True)
        try:
            self.manage("migrate", "--verbosity", "0")
            self.manage("collectstatic", "--noinput", "--verbosity", "0")
            self.manage("create_demo_users")
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._run("-m", "backend.config.postgres", "remove")

    def start(self) -> None:
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", "backend.config.supervisor", "--port", str(self.port)],
            cwd=ROOT,
            env=self.environment,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._supervisor.poll() is not None:
                raise RuntimeError(f"The supervisor ended; see {self.var}/log.")
            try:
                urllib.request.urlopen(f"{self.url}/accounts/login/", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise RuntimeError(f"No answer from {self.url} within 60 s; see {self.var}/log.")

    def stop(self) -> None:
        if self._supervisor and self._supervisor.poll() is None:
            self._supervisor.terminate()
            self._supervisor.wait(30)

    def manage(self, *arguments: str) -> str:
        """Runs `manage.py …` on this instance and returns what it printed."""
        return self._run("manage.py", *arguments)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout
