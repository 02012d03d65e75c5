from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from ml.errors import InputError
from ml.io.store import ObjectStore, content_hash


@pytest.fixture(params=["folder", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return ObjectStore(tmp_path / "objects")
    fsspec.filesystem("memory").store.clear()
    return ObjectStore("memory://bucket/objects", cache=tmp_path / "cache")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "Slide.One.OME.TIF"
    path.write_bytes(b"pixels" * 100)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "cells.zarr"
    (path / "X").mkdir(parents=True)
    (path / "zarr.json").write_text("{}")
    (path / "X" / "0").write_bytes(b"data")
    return path


def test_file_is_named_by_its_content_and_keeps_its_suffix(store: ObjectStore, file: Path) -> None:
    stored = store.put(file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert stored.sha256 == sha256
    assert (stored.uri, stored.bytes) == (f"{sha256[:2]}/{sha256}.ome.tif", 600)
    assert store.put(file) == stored
    assert store.local(stored.uri, stored.sha256).read_bytes() == file.read_bytes()


def test_folder_hash_is_of_its_sorted_manifest(store: ObjectStore, folder: Path) -> None:
    stored = store.put(folder)
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("X/0", "zarr.json")
    ]
    assert stored.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert stored.bytes == 6
    local = store.local(stored.uri, stored.sha256)
    assert local.suffix == ".zarr"
    assert content_hash(local) == (stored.sha256, 6)


def test_deleted_object_is_missing(store: ObjectStore, file: Path, folder: Path) -> None:
    for path in (file, folder):
        stored = store.put(path)
        store.delete(stored.uri)
        store.delete(stored.uri)
        with pytest.raises(InputError) as caught:
            store.local(stored.uri, stored.sha256)
        assert caught.value.code == "store.missing"
        again = store.put(path)
        assert store.local(again.uri, again.sha256).exists()


def test_keys_that_lead_out_are_refused(store: ObjectStore) -> None:
    for uri in ("../secret", "/etc/passwd", "ab/../../x", ""):
        with pytest.raises(ValueError):
            store.local(uri, "0" * 64)
        with pytest.raises(ValueError):
            store.delete(uri)


def test_nothing_half_written_stays(tmp_path: Path, folder: Path) -> None:
    store = ObjectStore(tmp_path / "objects")
    uri = store.put(folder).uri
    store.delete(uri)
    store.put(folder)
    names = [p.name for p in (tmp_path / "objects").glob("*/*")]
    assert names == [Path(uri).name]


def test_empty_folder_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError):
        store.put(tmp_path / "empty")


def test_damaged_remote_copy_is_refused(tmp_path: Path, file: Path) -> None:
    store = ObjectStore("memory://bucket/damaged", cache=tmp_path / "cache")
    stored = store.put(file)
    fsspec.filesystem("memory").pipe_file(f"/bucket/damaged/{stored.uri}", b"other")
    with pytest.raises(InputError) as caught:
        store.local(stored.uri, stored.sha256)
    assert caught.value.code == "store.damaged"
    assert not [p for p in (tmp_path / "cache").glob("*/*") if not p.name.startswith(".")]


def test_cache_evicts_what_was_used_longest_ago_but_not_what_is_open(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = ObjectStore("memory://bucket/cached", cache=cache, cache_bytes=250)
    stored = []
    for number in range(4):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(bytes([number]) * 100)
        stored.append(store.put(path))
    pinning = ObjectStore("memory://bucket/cached", cache=cache, cache_bytes=250)
    first = pinning.local(stored[0].uri, stored[0].sha256)
    # Another process that used the second file and ended: it pins nothing any more.
    (cache / stored[1].uri).parent.mkdir(exist_ok=True)
    (cache / stored[1].uri).write_bytes(b"\1" * 100)
    third = store.local(stored[2].uri, stored[2].sha256)
    assert first.exists()
    assert third.exists()
    assert not (cache / stored[1].uri).exists()


def test_two_processes_store_the_same_content_at_once(tmp_path: Path, folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ml.io.store import ObjectStore;"
        "print(ObjectStore(sys.argv[1]).put(Path(sys.argv[2])).uri)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "objects"), str(folder)]
    running = [subprocess.Popen(arguments, stdout=subprocess.PIPE) for _ in range(2)]
    uris = {process.communicate()[0] for process in running}
    assert len(uris) == 1
    assert [process.returncode for process in running] == [0, 0]
    assert content_hash(tmp_path / "objects" / uris.pop().decode().strip())[1] == 6
