"""TCGA kidney clear cell carcinoma (KIRC), as tabulated by PORPOISE, into a study folder.

Source: Chen et al. 2022, Cancer Cell 40, 865–878 (repository mahmoodlab/PORPOISE). One row per
slide: case_id, slide_id, age, is_female, survival_months, **censorship (1 = censored)**, then
``GENE_rnaseq`` z-scores and ``GENE_mut`` flags.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ml.errors import InputError
from ml.report import Report

_NEEDED = ["case_id", "site", "age", "is_female", "survival_months", "censorship"]
_RNASEQ, _MUTATION = "_rnaseq", "_mut"
_MUTATED = {0: "wild type", 1: "mutated"}


def kirc_study(raw: Path, out: Path, report: Report) -> Path:
    """Writes a study folder without slides: patients, overall survival, RNA-seq per patient.

    A patient with several slides enters once, with the first row; that is reported.

    Args:
        raw: ``tcga_kirc_all_clean.csv(.zip)``, or the folder that holds it.
        out: folder to write.

    Returns:
        `out`.

    Raises:
        InputError: ``kirc.…`` naming the file, row and remedy.
    """
    report.stage("Reading TCGA KIRC")
    path = _file(raw)
    table = _table(path)
    repeated = table.case_id.duplicated()
    if repeated.any():
        report.log(
            f"{int(repeated.sum())} rows are further slides of a patient already there "
            f"({', '.join(table.case_id[repeated].unique()[:5])}…); the first row was kept."
        )
    table = table[~repeated]
    censored = ~table.censorship.isin([0, 1])
    if censored.any():
        row = int(np.flatnonzero(censored)[0])
        raise InputError(
            "kirc.censorship",
            f"{path.name} row {table.index[row] + 2}",
            f"censorship is {table.censorship.iloc[row]}, not 0 or 1.",
            "1 means censored, 0 an event.",
        )
    mutations = [c for c in table.columns if c.endswith(_MUTATION) and table[c].notna().any()]
    out.mkdir(parents=True)
    _write_patients(table, mutations, out)
    _write_outcomes(table, out)
    genes = _write_expression(table, out)
    _write_head(mutations, out)
    report.log(f"{len(table)} patients, {int((1 - table.censorship).sum())} deaths, {genes} genes.")
    return out


def _file(raw: Path) -> Path:
    if raw.is_file():
        return raw
    found = sorted(raw.glob("*kirc*.csv*"))
    if not found:
        raise InputError(
            "kirc.missing",
            str(raw),
            "there is no file *kirc*.csv or *kirc*.csv.zip in it.",
            "Give the folder that holds tcga_kirc_all_clean.csv.zip.",
        )
    return found[0]


def _table(path: Path) -> Any:
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"case_id": str, "site": str})
    except (OSError, ValueError) as error:
        raise InputError(
            "kirc.unreadable",
            path.name,
            f"the table cannot be read ({type(error).__name__}).",
            "Take the file as published, and check that it is whole.",
        ) from error
    missing = [column for column in _NEEDED if column not in table.columns]
    if missing:
        raise InputError(
            "kirc.columns",
            f"{path.name} row 1",
            f"columns {', '.join(missing)} are missing.",
            "Take the file as published.",
        )
    return table


def _write_patients(table: Any, mutations: list[str], out: Path) -> None:
    import pandas as pd

    patients = pd.DataFrame(
        {
            "patient": table.case_id,
            "site": table.site,
            "age": table.age,
            "sex": table.is_female.map({0: "male", 1: "female"}),
            **{column: table[column].map(_MUTATED) for column in mutations},
        }
    )
    patients.to_csv(out / "patients.csv", index=False)


def _write_outcomes(table: Any, out: Path) -> None:
    import pandas as pd

    outcomes = pd.DataFrame(
        {
            "patient": table.case_id,
            "endpoint": "OS",
            "time": table.survival_months,
            "cause": 1 - table.censorship.astype(int),
        }
    )
    outcomes.to_csv(out / "outcomes.csv", index=False)


def _write_expression(table: Any, out: Path) -> int:
    columns = [c for c in table.columns if c.endswith(_RNASEQ)]
    expression = table[columns].astype(np.float32)
    expression.columns = [column.removesuffix(_RNASEQ) for column in columns]
    expression.index = table.case_id.rename("patient")
    folder = out / "patient_tables"
    folder.mkdir()
    expression.to_parquet(folder / "rnaseq.parquet")
    about = {"name": "RNA-seq z-score", "unit": "z-score", "source": "measured"}
    (folder / "rnaseq.json").write_text(json.dumps(about), encoding="utf-8")
    return len(columns)


def _write_head(mutations: list[str], out: Path) -> None:
    clinical: list[dict[str, Any]] = [
        {"name": "age", "label": "Age at diagnosis", "kind": "number", "unit": "years"},
        {"name": "sex", "label": "Sex", "kind": "category", "levels": ["female", "male"]},
    ]
    clinical += [
        {
            "name": column,
            "label": f"{column.removesuffix(_MUTATION)} mutation",
            "kind": "category",
            "levels": list(_MUTATED.values()),
        }
        for column in mutations
    ]
    head = {
        "slug": "tcga-kirc",
        "name": "TCGA kidney clear cell carcinoma (KIRC)",
        "question": "Which clinical variables and genes go with overall survival?",
        "limits": "No slides. One bulk RNA-seq z-score per gene and patient; treatment and stage "
        "are not in this table.",
        "source": "TCGA (open access), tabulated by Chen et al. 2022, Cancer Cell 40, 865–878; "
        "github.com/mahmoodlab/PORPOISE",
        "endpoints": [
            {
                "code": "OS",
                "label": "Overall survival",
                "time_zero": "diagnosis",
                "causes": {"1": "death"},
            }
        ],
        "clinical": clinical,
    }
    (out / "study.json").write_text(json.dumps(head, ensure_ascii=False), encoding="utf-8")
