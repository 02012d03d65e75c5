"""TCGA KIRC: the trial's numbers, and its traps (several slides per patient; 1 = censored)."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def table():
    folder = Path(os.environ["PAST_REAL_DATA"]) / "survival"
    return folder, pd.read_csv(next(folder.glob("tcga_kirc_all_clean.csv*")))


@pytest.fixture(scope="module")
def trial(table, tmp_path_factory):
    from ml.tasks.survival_trial import main

    out = tmp_path_factory.mktemp("kirc")
    return main(table[0], out), out


def test_one_row_per_patient_and_censorship_is_the_inverse_of_the_event(trial, table):
    patients = table[1].drop_duplicates("case_id")
    assert len(patients) < len(table[1])
    result, _ = trial
    assert result["n"] == len(patients) == 345
    assert result["events"] == int((patients.censorship == 0).sum()) == 92


def test_older_patients_die_sooner(trial):
    (ratio,) = trial[0]["analyses"]["age"]["hazard_ratios"]
    assert ratio["low"] > 1.3
    assert trial[0]["analyses"]["age"]["log_rank_p"] < 1e-3


def test_curves_agree_with_lifelines_on_the_raw_table(trial, table):
    from lifelines import KaplanMeierFitter

    patients = table[1].drop_duplicates("case_id")
    fit = KaplanMeierFitter().fit(patients.survival_months, patients.censorship == 0)
    assert trial[0]["median_months"] == fit.median_survival_time_
    written = json.loads((trial[1] / "km-all.json").read_text())
    table_json = written["at_risk"]
    counted = [int((patients.survival_months >= month).sum()) for month in table_json["ticks"]]
    assert table_json["strata"][0]["at_risk"] == counted


def test_every_analysis_is_written_and_labelled(trial):
    result, out = trial
    for name in ("all", *result["analyses"]):
        for kind in ("svg", "csv", "json"):
            text = (out / f"km-{name}.{kind}").read_text(encoding="utf-8")
            assert "Research use only – not for diagnosis or treatment" in text
    assert json.loads((out / "kirc.json").read_text(encoding="utf-8")) == result
