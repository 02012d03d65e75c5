"""Patient tables of a study folder: numbers per patient, e.g. bulk expression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ml.errors import InputError
from ml.io.study.content import PatientTable

_LONGEST_NAME, _LONGEST_UNIT, _LONGEST_COLUMN = 120, 60, 120


def read_patient_tables(folder: Path, patients: set[str]) -> list[PatientTable]:
    """Checks every table in `folder` against the study's patient codes.

    Raises:
        InputError: naming the table and what is wrong with it.
    """
    paths = sorted(p for p in folder.glob("*") if p.suffix in {".parquet", ".csv"})
    tables = [_patient_table(path, patients) for path in paths]
    names = [table.name for table in tables]
    for table in tables:
        if names.count(table.name) > 1:
            raise InputError(
                "patient_table.twice",
                f"patient_tables/{table.path.name}",
                f"there are two tables named {table.name!r}.",
                "Give each its own name.",
            )
    return tables


def _patient_table(path: Path, patients: set[str]) -> PatientTable:
    where = f"patient_tables/{path.name}"
    about = _about(path.with_suffix(".json"))
    table = patient_frame(path)
    for row, code in enumerate(table.index):
        if code not in patients:
            raise InputError(
                "patient.unknown",
                f"{where} row {row + 2}",
                f"patient {code!r} is not in patients.csv.",
                "Add the patient there, or remove the row.",
            )
    if not table.index.is_unique or not table.columns.is_unique:
        twice = table.index[table.index.duplicated()].tolist()
        twice += table.columns[table.columns.duplicated()].tolist()
        raise InputError(
            "patient_table.twice", where, f"{twice[0]!r} is there twice.", "Keep one of the two."
        )
    for column in table.columns:
        values = table[column]
        if values.dtype.kind not in "iufb" or np.isinf(values.to_numpy(np.float64)).any():
            raise InputError(
                "patient_table.not_numbers",
                f"{where} column {column}",
                "there are values that are not finite numbers.",
                "Patient tables hold numbers; put categories into patients.csv.",
            )
        _refuse_long(where, "the column name", column, _LONGEST_COLUMN)
    name = about.get("name") or path.stem
    _refuse_long(where, "the name", name, _LONGEST_NAME)
    _refuse_long(where, "the unit", about["unit"], _LONGEST_UNIT)
    return PatientTable(name, about["unit"], path)


def _refuse_long(where: str, what: str, text: str, longest: int) -> None:
    if len(text) > longest:
        raise InputError(
            "patient_table.too_long",
            where,
            f"{what} {text[:40]!r}… has {len(text)} characters.",
            f"Shorten it to {longest}.",
        )


def patient_frame(path: Path) -> Any:
    """The pandas table of a patient table's file, its index named "patient", codes as text."""
    import pandas as pd

    where = f"patient_tables/{path.name}"
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype={"patient": str})
    except (OSError, ValueError) as error:
        raise InputError(
            "patient_table.unreadable",
            where,
            f"the table cannot be read ({error}).",
            "Write it with pandas' to_parquet or to_csv.",
        ) from error
    if "patient" in table.columns:
        table = table.set_index("patient")
    if table.index.name != "patient":
        raise InputError(
            "patient_table.no_patient",
            where,
            'there is no index or column named "patient".',
            "Name the column of patient codes so.",
        )
    table.index = table.index.astype(str)
    table.columns = table.columns.astype(str)
    return table


def _about(path: Path) -> dict[str, str]:
    where = f"patient_tables/{path.name}"
    remedy = 'Write {"name": …, "unit": …, "source": "measured"} into it.'
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            "patient_table.no_description", where, "it is missing or not JSON.", remedy
        ) from error
    texts = isinstance(about, dict) and all(isinstance(v, str) for v in about.values())
    if not texts or not about.get("unit") or about.get("source", "measured") != "measured":
        raise InputError(
            "patient_table.no_description",
            where,
            "it must name a unit, and the source must be measured.",
            remedy,
        )
    return dict(about)
