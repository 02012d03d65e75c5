"""The launcher, on servers of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psycopg
import pytest

from backend.config import postgres

start = partial(postgres.ensure_running, durable=False)


@pytest.fixture(scope="module")
def var(tmp_path_factory):
    """A data folder whose server these tests start, stop and kill; removed at the end, wherever it
    put its data."""
    folder = tmp_path_factory.mktemp("installation")
    yield folder
    postgres.remove(folder)


def _postmaster(var: Path) -> int:
    data = Path(postgres._read(var).data)
    return int((data / "postmaster.pid").read_text().split()[0])


def _write(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (42)")


def _read(url: str) -> int:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT n FROM kept").fetchone()[0]


def test_it_starts_stops_and_keeps_its_data(var, tmp_path):
    assert "no server" in postgres.status(tmp_path)
    url = postgres.ensure_running(var)
    with psycopg.connect(url) as connection:
        assert connection.execute("SHOW fsync").fetchone()[0] == "on"
    assert postgres.status(var).startswith("running")
    _write(url)
    postgres.stop(var)
    assert postgres.status(var).startswith("stopped")
    assert not Path(postgres._read(var).socket).exists()
    assert _read(start(var)) == 42


def test_a_second_start_is_instant(var):
    url = start(var)
    started = time.monotonic()
    assert start(var) == url
    assert time.monotonic() - started < 0.2


def test_nobody_else_can_reach_it(var):
    """Only a socket in a folder closed to others; no TCP; not as root."""
    url = start(var)
    folder = Path(postgres._read(var).socket)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(str(folder / ".s.PGSQL.5432")) < 108
    with psycopg.connect(url) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone()[0] == ""
        assert connection.execute("SHOW server_encoding").fetchone()[0] == "UTF8"
    assert Path(f"/proc/{_postmaster(var)}").stat().st_uid != 0


def test_it_survives_a_crash_with_a_lock_that_names_a_living_process(var):
    url = start(var)
    _write(url)
    pid_file = Path(postgres._read(var).data, "postmaster.pid")
    os.kill(_postmaster(var), signal.SIGKILL)
    _, _, rest = pid_file.read_text().partition("\n")
    pid_file.write_text(f"{os.getpid()}\n{rest}")
    assert _read(start(var)) == 42


def test_it_waits_for_a_backend_that_outlives_a_killed_postmaster(var):
    url = start(var)
    _write(url)
    busy = psycopg.connect(url)
    loop = "DO $$ BEGIN FOR i IN 1..2000000000 LOOP END LOOP; END $$"
    thread = threading.Thread(target=_swallow, args=(busy, loop), daemon=True)
    thread.start()
    time.sleep(0.3)
    os.kill(_postmaster(var), signal.SIGKILL)
    assert _read(start(var)) == 42
    thread.join(5)
    assert not thread.is_alive()


def _swallow(connection: psycopg.Connection, statement: str) -> None:
    try:
        connection.execute(statement)
    except psycopg.OperationalError:
        connection.close()


def test_several_that_start_at_once_share_one_server(var):
    command = [sys.executable, "-m", "backend.config.postgres", "start"]
    environment = {**os.environ, "PAST_VAR": str(var)}
    start(var)
    postgres.stop(var)
    children = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = {child.communicate(timeout=60)[0].strip() for child in children}
    assert said == {start(var)}


def test_installations_do_not_meet(var, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    try:
        assert start(var) != start(other)
        _write(start(var))
        with pytest.raises(psycopg.errors.UndefinedTable):
            _read(start(other))
    finally:
        postgres.remove(other)


def test_a_socket_folder_that_went_away_is_replaced(var):
    _write(start(var))
    folder = Path(postgres._read(var).socket)
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()
    assert _read(start(var)) == 42


def test_data_of_another_major_version_is_refused_by_name(var):
    start(var)
    postgres.stop(var)
    data = Path(postgres._read(var).data)
    version = (data / "PG_VERSION").read_text()
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(postgres.PostgresError, match="another version"):
        start(var)
    (data / "PG_VERSION").write_text(version)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes to another account")
def test_where_the_account_cannot_reach_the_data_goes_elsewhere(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    var = closed / "var"
    try:
        start(var)
        assert Path(postgres._read(var).data).parent == Path("/var/tmp")
        assert closed.stat().st_mode & 0o777 == 0o700
    finally:
        data = postgres._read(var).data
        postgres.remove(var)
    assert not Path(data).exists()


def test_the_command_line_tells_and_refuses(var):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "backend.config.postgres", *arguments],
            env={**os.environ, "PAST_VAR": str(var)}, capture_output=True, text=True,
        )  # fmt: skip

    assert run("url").stdout.strip() == start(var)
    assert run("stop").returncode == 0
    assert run("status").stdout.startswith("stopped")
    assert run("dance").returncode == 2
