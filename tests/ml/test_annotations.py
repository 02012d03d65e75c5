"""Annotation layers: what is written is read, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from ml.errors import InputError
from ml.io.annotations import (
    BEYOND,
    NOT_ASSIGNED,
    Annotations,
    ood_steps,
    write_cell_types,
    write_trust,
)

HASHES: dict[str, Any] = {"table_sha256": "t" * 64, "model_sha256": "m" * 64}


def written(path: Path, **other: Any) -> Annotations:
    given: dict[str, Any] = {
        "codes": np.array([0, 2, -1, 1]),
        "probability": np.array([0.9, 0.61, 0.3, 1.0]),
        "types": ["tumour", "t_cell", "b_cell"],
        "abstain_below": 0.5,
    }
    write_cell_types(path, **{**given, **other}, **HASHES)
    return Annotations.open(path)


def test_types_come_back(tmp_path: Path) -> None:
    found = written(tmp_path / "deep" / "types.zarr")
    assert found.kind == "cell_type"
    assert found.column("codes").tolist() == [0, 2, NOT_ASSIGNED, 1]
    assert found.column("codes").dtype == np.uint8
    assert np.abs(found.column("probability") / 255 - [0.9, 0.61, 0.3, 1.0]).max() <= 0.5 / 255
    assert found.attributes["types"] == ["tumour", "t_cell", "b_cell"]
    assert found.attributes["method"] == "probe"
    assert found.attributes["abstain_below"] == 0.5
    assert found.attributes["table_sha256"] == "t" * 64
    assert found.n_rows == 4


def test_written_again_is_read_anew(tmp_path: Path) -> None:
    written(tmp_path / "types.zarr")
    again = written(tmp_path / "types.zarr", codes=np.array([1, 1, 1, 255]))
    assert again.column("codes").tolist() == [1, 1, 1, NOT_ASSIGNED]
    assert [p.name for p in tmp_path.iterdir()] == ["types.zarr"]


def test_steps_keep_to_their_side_of_the_threshold(tmp_path: Path) -> None:
    threshold = 41.7
    distance = np.concatenate([np.linspace(0, 200, 5001), threshold + np.array([-1e-9, 0.0, 1e-9])])
    steps = ood_steps(distance, threshold)
    assert ((steps >= BEYOND) == (distance > threshold)).all()
    assert (np.diff(steps[:5001].astype(int)) >= 0).all()
    assert steps[0] == 0 and steps[5000] == 255
    write_trust(tmp_path / "trust.zarr", ood=steps, threshold=threshold, **HASHES)
    found = Annotations.open(tmp_path / "trust.zarr")
    assert found.kind == "trust"
    assert (found.column("ood") == steps).all()
    assert found.attributes["threshold"] == threshold
    with pytest.raises(KeyError):
        found.column("codes")


@pytest.mark.parametrize(
    "wrong",
    [
        {"codes": np.array([0, 3, -1, 1])},
        {"codes": np.array([0, -2, -1, 1])},
        {"codes": np.array([0, 1])},
        {"probability": np.array([0.9, 1.1, 0.3, 1.0])},
        {"probability": np.array([0.9, np.nan, 0.3, 1.0])},
        {"types": ["a", "a", "b"]},
        {"types": []},
    ],
)
def test_parts_that_do_not_fit_are_refused_and_leave_nothing(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError):
        written(tmp_path / "types.zarr", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_trust_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_trust(tmp_path / "t.zarr", ood=np.zeros(3, np.uint8), threshold=0.0, **HASHES)
    with pytest.raises(ValueError):
        write_trust(tmp_path / "t.zarr", ood=np.zeros(0, np.uint8), threshold=1.0, **HASHES)
    with pytest.raises(ValueError):
        write_trust(
            tmp_path / "t.zarr",
            ood=np.zeros(3),  # type: ignore[arg-type]
            threshold=1.0,
            **HASHES,
        )


def test_what_is_no_annotation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as nothing:
        Annotations.open(tmp_path / "missing")
    assert nothing.value.code == "annotations.unreadable"
    written(tmp_path / "types.zarr")
    root = zarr.open_group(tmp_path / "types.zarr", mode="r+")
    root.attrs["version"] = 99
    with pytest.raises(InputError):
        Annotations(tmp_path / "types.zarr")
    root.attrs["version"] = 1
    del root["probability"]
    with pytest.raises(InputError):
        Annotations(tmp_path / "types.zarr")
