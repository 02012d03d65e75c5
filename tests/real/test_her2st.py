"""`past trial her2st` on the published sections, shortened: two held out, one seed, few epochs."""

import csv
import json

import pytest

from ml.report import ConsoleReport
from ml.tasks import expression_trial

pytestmark = pytest.mark.real_data

KEYS = {
    "pcc_median", "ridge_pcc_median", "frozen_ridge_pcc_median", "ceiling_pcc_median",
    "difference_low", "difference_high", "genes", "spots",
}  # fmt: skip


@pytest.fixture(scope="module")
def trial(real_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("trial")
    result = expression_trial.main(
        real_data / "her2st", out, ConsoleReport(), sections=["C4", "C6"], epochs=4, seeds=1
    )
    return out, result


def test_the_model_beats_the_mean_and_the_colour_ridge(trial):
    _, result = trial
    assert result.keys() >= KEYS
    assert result["label"] == "held-out section of the same patient"
    assert result["pcc_median"] > 0.25 and result["mean_pcc_median"] == 0.0
    assert result["difference_low"] > 0
    assert result["pcc_median"] > result["frozen_ridge_pcc_median"] - 0.01
    assert result["pcc_median"] < result["ceiling_pcc_median"]


def test_baselines_reach_their_known_floor(trial):
    """Ridge on colour 0.25 and on the frozen encoder 0.27 were measured apart from this code."""
    _, result = trial
    assert result["ridge_pcc_median"] == pytest.approx(0.23, abs=0.05)
    assert result["frozen_ridge_pcc_median"] == pytest.approx(0.27, abs=0.04)
    assert result["ceiling_pcc_median"] == pytest.approx(0.6, abs=0.06)


def test_figures_are_those_of_the_files(trial):
    out, result = trial
    with (out / "per_gene.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result["genes"] > 450
    assert result["spots"] == 184 + 178
    middle = sorted(float(r["PAST"]) for r in rows)[len(rows) // 2]
    assert middle == pytest.approx(result["pcc_median"], abs=0.003)
    assert json.loads((out / "trial.json").read_text())["pcc_median"] == result["pcc_median"]
