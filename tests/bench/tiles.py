"""Tiles through the whole web stack, against large-image called directly in one process."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.bench.registry import Row, benchmark
from tests.bench.studies import PYRAMID, write_tables
from tests.instance import Instance
from tests.session import Session

SECONDS = 30
BASELINE_SECONDS = 10
CONNECTIONS = 4
SIDE = 16_384
JPEG = {"encoding": "JPEG", "jpegQuality": 80, "jpegSubsampling": 2}


@benchmark("tile")
def tile(folder: Path) -> Iterator[Row]:
    """Both kinds of slide: tiles that can pass through undecoded, and tiles that cannot."""
    study = write_study(folder / "study")
    with Instance(folder / "var") as app:
        app.manage("import_study", str(study))
        session = Session.login(app.url, "admin")
        slides = {s["code"]: s for s in session.get("/api/v1/studies/bench/slides/")["results"]}
        for kind, code in (("passthrough", "jpeg"), ("reencoded", "deflate")):
            detail = session.get(f"/api/v1/slides/{slides[code]['id']}/")
            rate, p95 = _hammer(app.port, detail["tile_url"], _tile_addresses(detail))
            direct_rate, direct_p95 = _direct(study / f"slides/{code}.tif", detail)
            yield Row(f"tile_{kind}_p95", p95, "ms", direct_p95, p95 / direct_p95)
            print(f"{kind}: {rate:.0f} tiles/s, directly {direct_rate:.0f}", file=sys.stderr)
            yield Row(f"tile_{kind}_ratio", rate / direct_rate, "x")
        app.stop()
        yield Row("tile_cold_p95", _cold(app, slides["jpeg"]["id"]), "ms")


def write_study(folder: Path) -> Path:
    """A study of two 16,384 px slides of noise with the frequencies of tissue, JPEG and deflate."""
    import pyvips

    (folder / "slides").mkdir(parents=True)
    rng = np.random.default_rng(0)
    texture = sum(
        np.kron(rng.normal(0, 14, (2048 // k, 2048 // k, 3)), np.ones((k, k, 1)))
        for k in (2, 8, 64)
    )
    texture = np.clip(texture + np.array([205, 160, 200]), 0, 255).astype(np.uint8)
    image = pyvips.Image.new_from_array(texture).gaussblur(1.2).replicate(8, 8)
    image = image.copy(interpretation="srgb", xres=2000, yres=2000)  # 0.5 µm/px
    image.tiffsave(str(folder / "slides/jpeg.tif"), compression="jpeg", Q=80, **PYRAMID)
    image.tiffsave(str(folder / "slides/deflate.tif"), compression="deflate", **PYRAMID)
    return write_tables(folder, "bench", ["jpeg", "deflate"])


def _tile_addresses(detail: dict) -> list[tuple[int, int, int]]:
    """A pan over the finest levels: 2,000 tiles in random order."""
    top = detail["levels"] - 1
    addresses = []
    for z in (top, top - 1, top - 2):
        across = -(-detail["width"] // (detail["tile_size"] << (top - z)))
        down = -(-detail["height"] // (detail["tile_size"] << (top - z)))
        addresses += [(z, x, y) for x in range(across) for y in range(down)]
    return random.Random(0).sample(addresses, 2000)


def _hammer(port: int, template: str, addresses: list[tuple[int, int, int]]) -> tuple[float, float]:
    """Tiles per second and p95 in ms, from four keep-alive connections of one other process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(_load, (port, template, addresses, 3))  # warm
        latencies = pool.apply(_load, (port, template, addresses, SECONDS))
    return len(latencies) / SECONDS, float(np.percentile(latencies, 95) * 1000)


def _load(port: int, template: str, addresses: list, seconds: float) -> list[float]:
    until = time.perf_counter() + seconds
    latencies: list[float] = []

    def connection(offset: int) -> None:
        turn = offset
        with _Connection(port) as client:
            while time.perf_counter() < until:
                z, x, y = addresses[turn % len(addresses)]
                turn += CONNECTIONS
                start = time.perf_counter()
                client.get_jpeg(template.format(z=z, x=x, y=y))
                latencies.append(time.perf_counter() - start)

    _in_threads(connection, CONNECTIONS)
    return latencies


def _direct(path: Path, detail: dict) -> tuple[float, float]:
    """The same tiles from large-image without a web stack, on two threads."""
    import large_image

    source = large_image.open(path, noCache=True, **JPEG)
    addresses = _tile_addresses(detail)
    latencies: list[float] = []
    until = time.perf_counter() + BASELINE_SECONDS

    def thread(offset: int) -> None:
        turn = offset
        while time.perf_counter() < until:
            z, x, y = addresses[turn % len(addresses)]
            turn += 2
            start = time.perf_counter()
            source.getTile(x, y, z)
            latencies.append(time.perf_counter() - start)

    _in_threads(thread, 2)
    return len(latencies) / BASELINE_SECONDS, float(np.percentile(latencies, 95) * 1000)


class _Connection:
    """A keep-alive connection that costs the measured machine as little as it can."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def get_jpeg(self, path: str) -> bytes:
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status, length = self._file.readline(), 0
        while (line := self._file.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        body = self._file.read(length)
        if b" 200 " not in status or body[:2] != b"\xff\xd8":
            raise RuntimeError(f"{path} answered {status.decode().strip()}")
        return body


def _in_threads(function, count: int) -> None:
    threads = [threading.Thread(target=function, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _cold(app: Instance, slide: int) -> float:
    """p95 in ms of the first 40 tiles after a restart with the store's pages dropped."""
    for path in app.var.rglob("*"):
        if path.is_file() and path.stat().st_size > 1 << 20:
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    app.start()
    detail = Session.login(app.url, "admin").get(f"/api/v1/slides/{slide}/")
    latencies = []
    with _Connection(app.port) as client:
        for z, x, y in _tile_addresses(detail)[:40]:
            start = time.perf_counter()
            client.get_jpeg(detail["tile_url"].format(z=z, x=x, y=y))
            latencies.append(time.perf_counter() - start)
    return float(np.percentile(latencies, 95) * 1000)
