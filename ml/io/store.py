"""The object store: immutable files and folders named by their content.

By default a folder; any fsspec URL (``s3://bucket/prefix``) does as well. The uri of an object is
its key inside the store, so a store can be moved as a whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ml.errors import InputError

_MANIFEST = ".manifest"
_PINNED_AT_MOST = 256
DEFAULT_CACHE_BYTES = 50 * 2**30


@dataclass(frozen=True)
class StoredObject:
    """`sha256` of the content, `uri` the key inside the store, `bytes` the size."""

    sha256: str
    uri: str
    bytes: int


def content_hash(path: Path) -> tuple[str, int]:
    """(sha256, bytes) of a file; of a folder, the sha256 of its manifest and its files' bytes.

    The manifest has a line ``sha256  relative/path`` for each file, sorted by path.
    """
    if path.is_file():
        return _file_hash(path), path.stat().st_size
    manifest = _manifest(path)
    size = sum((path / name).stat().st_size for name, _ in manifest)
    return hashlib.sha256(_manifest_text(manifest)).hexdigest(), size


class ObjectStore:
    """Puts, finds and deletes objects. Safe to share between threads and processes.

    Args:
        place: a folder, or an fsspec URL with a protocol (``s3://…``, ``memory://…``).
        cache: folder for local copies of a remote store; needed with a URL.
        cache_bytes: its size limit. Objects in use are never evicted, so it may be exceeded by
            what running processes have pinned.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        cache: Path | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        text = str(place).removeprefix("file://")
        self._remote: _Remote | None = None
        if "://" in text:
            if cache is None:
                raise ValueError("a remote object store needs a cache folder")
            self._remote = _Remote(text, cache, cache_bytes)
        else:
            self.root = Path(text).absolute()

    def put(self, path: Path) -> StoredObject:
        """Stores a file or folder; content that is already there is not written again."""
        sha256, size = content_hash(path)
        uri = f"{sha256[:2]}/{sha256}{_suffixes(path)}"
        if self._remote is not None:
            self._remote.put(path, uri)
        else:
            self._put_local(path, self.root / uri)
        return StoredObject(sha256, uri, size)

    def local(self, uri: str, sha256: str) -> Path:
        """A local path of the object: read-only for everybody, and its suffix is kept.

        From a folder it is the object itself. From a remote store it is a verified copy in the
        cache, pinned (never evicted) while it is among the last 256 that this process asked for.

        Raises:
            InputError: ``store.missing``, or ``store.damaged`` when a copy is not what `sha256`
                says.
        """
        if self._remote is not None:
            return self._remote.local(_checked(uri), sha256)
        path = self.root / _checked(uri)
        if not path.exists():
            raise _missing(uri)
        return path

    def delete(self, uri: str) -> None:
        """Removes an object; one that is not there is no error."""
        if self._remote is not None:
            self._remote.delete(_checked(uri))
            return
        path = self.root / _checked(uri)
        if path.is_dir():
            # Out of sight in one step: no reader finds half a folder.
            doomed = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
            with contextlib.suppress(FileNotFoundError):
                path.replace(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def _put_local(self, source: Path, target: Path) -> None:
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        try:
            _copy(source, part)
            # Somebody else may have stored the same content in the meantime.
            with contextlib.suppress(OSError):
                part.replace(target)
            if not target.exists():
                raise OSError(f"{target} could not be written")
        finally:
            _remove(part)


class _Remote:
    """A store behind fsspec, with a cache of local copies shared by the processes of a machine."""

    def __init__(self, url: str, cache: Path, cache_bytes: int) -> None:
        import fsspec

        self.fs, self.prefix = fsspec.core.url_to_fs(url)
        self.cache = cache.absolute()
        self.cache_bytes = cache_bytes
        self._pins: OrderedDict[str, IO[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, path: Path, uri: str) -> None:
        key = self._key(uri)
        if path.is_file():
            if not self.fs.exists(key):
                self.fs.makedirs(self.fs._parent(key), exist_ok=True)
                self.fs.put_file(str(path), key)
            return
        # The manifest is written last: an object without it is not there.
        if self.fs.exists(key + _MANIFEST):
            return
        manifest = _manifest(path)
        for name, _ in manifest:
            self.fs.makedirs(self.fs._parent(f"{key}/{name}"), exist_ok=True)
            self.fs.put_file(str(path / name), f"{key}/{name}")
        self.fs.pipe_file(key + _MANIFEST, _manifest_text(manifest))

    def local(self, uri: str, sha256: str) -> Path:
        target = self.cache / uri
        target.parent.mkdir(parents=True, exist_ok=True)
        self._pin(uri)
        if not target.exists():
            with self._locked(uri + ".fetch", fcntl.LOCK_EX):
                if not target.exists():
                    self._fetch(uri, sha256, target)
            self._evict()
        os.utime(target)
        return target

    def delete(self, uri: str) -> None:
        key = self._key(uri)
        for name in (key + _MANIFEST, key):
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm(name, recursive=True)

    def _fetch(self, uri: str, sha256: str, target: Path) -> None:
        key = self._key(uri)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        try:
            if self.fs.exists(key + _MANIFEST):
                for line in self.fs.cat_file(key + _MANIFEST).decode().splitlines():
                    name = _checked(line.split("  ", 1)[1])
                    (part / name).parent.mkdir(parents=True, exist_ok=True)
                    self.fs.get_file(f"{key}/{name}", str(part / name))
            elif self.fs.isfile(key):
                self.fs.get_file(key, str(part))
            else:
                raise _missing(uri)
            if content_hash(part)[0] != sha256:
                raise InputError(
                    "store.damaged",
                    uri,
                    "the object store returned other content than was stored.",
                    "Restore this object from the backup of the object store.",
                )
            part.replace(target)
        finally:
            _remove(part)

    def _evict(self) -> None:
        """Removes the copies used longest ago until the cache is within its limit."""
        copies = [p for p in self.cache.glob("??/*") if not p.name.startswith(".")]
        sized = [(p.stat().st_mtime, p, _size(p)) for p in copies]
        excess = sum(size for _, _, size in sized) - self.cache_bytes
        for _, path, size in sorted(sized):
            if excess <= 0:
                return
            lock = path.relative_to(self.cache).as_posix() + ".lock"
            with contextlib.suppress(BlockingIOError), self._locked(lock, _TRY):
                _remove(path)
                excess -= size

    def _pin(self, uri: str) -> None:
        """Holds a shared lock on the copy; whoever evicts needs an exclusive one."""
        with self._lock:
            if uri not in self._pins:
                lock = self._lock_file(uri + ".lock").open("ab")
                fcntl.flock(lock, fcntl.LOCK_SH)
                self._pins[uri] = lock
            self._pins.move_to_end(uri)
            while len(self._pins) > _PINNED_AT_MOST:
                self._pins.popitem(last=False)[1].close()

    @contextlib.contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        with self._lock_file(name).open("ab") as lock:
            fcntl.flock(lock, how)
            yield

    def _lock_file(self, name: str) -> Path:
        path = self.cache / name
        return path.with_name("." + path.name)

    def _key(self, uri: str) -> str:
        return f"{self.prefix.rstrip('/')}/{uri}"


_TRY = fcntl.LOCK_EX | fcntl.LOCK_NB


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: Path) -> list[tuple[str, str]]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    if not files:
        raise FileNotFoundError(f"{folder} holds no file")
    return sorted((p.relative_to(folder).as_posix(), _file_hash(p)) for p in files)


def _manifest_text(manifest: list[tuple[str, str]]) -> bytes:
    return "".join(f"{sha256}  {name}\n" for name, sha256 in manifest).encode()


def _suffixes(path: Path) -> str:
    """The suffix by which readers know the format: ".ome.tif", ".svs", ".zarr"."""
    suffixes = [s.lower() for s in path.suffixes]
    return "".join(suffixes[-2:]) if suffixes[-2:-1] == [".ome"] else "".join(suffixes[-1:])


def _checked(uri: str) -> str:
    """The uri, unless it points outside the store."""
    key = PurePosixPath(uri)
    if not uri or key.is_absolute() or ".." in key.parts:
        raise ValueError(f"{uri!r} is not a key of the object store")
    return uri


def _missing(uri: str) -> InputError:
    return InputError(
        "store.missing",
        uri,
        "the object store does not hold this object.",
        "Restore it from the backup, or run the job that made it again.",
    )


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    files: Any = path.rglob("*") if path.is_dir() else [path]
    return sum(p.stat().st_size for p in files if p.is_file())
