from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml.errors import InputError
from ml.io import layers
from ml.io.celltable import panel_hash
from ml.io.layers import UNIT, Layer, LayerWriter

SYMBOLS = [f"G{i}" for i in range(9)]


def writer(path: Path, n_rows: int) -> LayerWriter:
    return LayerWriter(
        path, symbols=SYMBOLS, n_rows=n_rows, table_sha256="t" * 64, model_sha256="m" * 64
    )


@pytest.fixture
def values() -> np.ndarray:
    values = np.random.default_rng(0).gamma(2, 1, (1000, 9)).astype(np.float32)
    values[:, 4] = 1.25
    return values


def test_values_come_back_within_half_a_step(tmp_path: Path, values: np.ndarray) -> None:
    with writer(tmp_path / "l.zarr", 1000) as layer:
        for block in np.array_split(values, 7):
            layer.append(block)
    layer = Layer.open(tmp_path / "l.zarr")
    assert (layer.n_rows, layer.symbols, layer.unit) == (1000, SYMBOLS, UNIT)
    assert (layer.table_sha256, layer.model_sha256) == ("t" * 64, "m" * 64)
    assert layer.panel_hash == panel_hash(SYMBOLS)
    for column, symbol in enumerate(SYMBOLS):
        steps, scale, offset = layer.gene_uint8(symbol)
        assert steps.dtype == np.uint8
        assert np.abs(layer.gene(symbol) - values[:, column]).max() <= scale / 2 * 1.001
        np.testing.assert_allclose(offset + scale * steps, layer.gene(symbol), rtol=1e-5)
    assert (layer.gene("G4") == 1.25).all()
    assert [p.name for p in tmp_path.iterdir()] == ["l.zarr"]


def test_small_buffers_and_shards_give_the_same(
    tmp_path: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_BUFFER_BYTES", 4 * 9 * 130)
    monkeypatch.setattr(layers, "_CHUNK_BYTES", 2000)
    monkeypatch.setattr(layers, "_SHARD_BYTES", 4500)
    with writer(tmp_path / "small.zarr", 1000) as layer:
        for block in np.array_split(values, 3):
            layer.append(block)
    monkeypatch.undo()
    with writer(tmp_path / "large.zarr", 1000) as layer:
        layer.append(values)
    small, large = Layer.open(tmp_path / "small.zarr"), Layer.open(tmp_path / "large.zarr")
    for symbol in SYMBOLS:
        np.testing.assert_array_equal(small.gene(symbol), large.gene(symbol))


def test_wrong_blocks_are_refused_and_leave_nothing(tmp_path: Path, values: np.ndarray) -> None:
    spoilt = values.copy()
    spoilt[3, 3] = np.nan
    for blocks in ([values[:, :3]], [values, values[:1]], [spoilt], [values[:999]], []):
        with pytest.raises(ValueError), writer(tmp_path / "l.zarr", 1000) as layer:
            for block in blocks:
                layer.append(block)
        assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError):
        writer(tmp_path / "l.zarr", 0)


def test_unknown_gene_and_no_layer(tmp_path: Path, values: np.ndarray) -> None:
    with writer(tmp_path / "l.zarr", 1000) as layer:
        layer.append(values)
    with pytest.raises(InputError) as caught:
        Layer.open(tmp_path / "l.zarr").gene("HER2")
    assert caught.value.code == "gene.unknown"
    with pytest.raises(InputError) as caught:
        Layer.open(tmp_path)
    assert caught.value.code == "layer.unreadable"
