"""Tests on real data are deselected, not passed, where PAST_REAL_DATA names no folder."""

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(config, items):
    folder = os.environ.get("PAST_REAL_DATA", "")
    if folder and Path(folder).is_dir():
        return
    needing = [item for item in items if item.get_closest_marker("real_data")]
    if needing:
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds her2st/, survival/, slides/ and the others."""
    return Path(os.environ["PAST_REAL_DATA"])
