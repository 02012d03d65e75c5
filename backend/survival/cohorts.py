"""A study's patients as the frame that `ml` analyses: outcomes beside one column of values.

Values come from the clinical table or from a patient table's artifact; whoever has to stay out
before the analysis (a model's own training patients) is named with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from backend.jobs.services import local
from backend.registry.models import Exposure, ModelVersion, Part, PatientColumn, PatientTable
from backend.studies.models import ClinicalColumn, ClinicalValue, Endpoint, Outcome, Study
from ml.errors import InputError
from ml.tasks.survival_analysis import Exclusion, Stratifier

SEEN = (Part.TRAIN, Part.VALIDATION)


@dataclass(frozen=True)
class Column:
    """Values by patient code, and what they are. `exposed`: patients its model was trained on."""

    stratifier: Stratifier
    values: pd.Series
    exposed: frozenset[str] = frozenset()


def endpoint_of(study: Study, code: str) -> Endpoint:
    """Raises InputError when the study has no such endpoint."""
    endpoint = study.endpoints.filter(code=code).first()
    if endpoint is None:
        known = ", ".join(study.endpoints.values_list("code", flat=True))
        raise InputError(
            "survival.endpoint",
            "endpoint",
            f"This study has no endpoint {code!r}.",
            f"Choose among: {known}." if known else "Import outcomes for this study first.",
        )
    return endpoint


def outcomes(study: Study, endpoint: Endpoint, causes: Sequence[int] = ()) -> pd.DataFrame:
    """One row per patient of the study: patient, entry, time (months; NaN: no outcome), event.

    `causes` empty: any cause is the event; else only those, and the others censor.
    """
    unknown = [str(cause) for cause in causes if str(cause) not in endpoint.causes]
    if unknown:
        raise InputError(
            "survival.cause",
            "causes",
            f"{endpoint.code} has no cause {unknown[0]}.",
            f"Choose among: {', '.join(endpoint.causes)}.",
        )
    found = Outcome.objects.filter(endpoint=endpoint).values_list(
        "patient__code", "entry", "time", "cause"
    )
    rows = pd.DataFrame(list(found), columns=["patient", "entry", "time", "cause"])
    rows["event"] = rows["cause"].isin(causes) if causes else rows["cause"] > 0
    everybody = pd.DataFrame({"patient": list(study.patients.values_list("code", flat=True))})
    frame = everybody.merge(rows.drop(columns="cause"), on="patient", how="left")
    return frame.assign(
        entry=frame["entry"].astype(float).fillna(0.0),
        time=frame["time"].astype(float),
        event=frame["event"].eq(True),
    )


def clinical_column(study: Study, name: str) -> Column:
    """Raises InputError when the study has no such clinical column."""
    column = study.clinical_columns.filter(name=name).first()
    if column is None:
        raise _no_stratifier(f"clinical column {name!r}")
    numeric = column.kind == ClinicalColumn.Kind.NUMBER
    found = ClinicalValue.objects.filter(column=column, patient__study=study)
    pairs = found.values_list("patient__code", "number" if numeric else "text")
    return Column(
        Stratifier(
            source="clinical",
            name=name,
            label=column.label or name,
            unit=column.unit,
            numeric=numeric,
            levels=tuple(column.levels),
        ),
        pd.Series(dict(pairs), dtype=float if numeric else object),
    )


def table_column(study: Study, source: str, table_id: int, name: str) -> Column:
    """A column of a patient table. Raises InputError when the study has none such."""
    column = (
        PatientColumn.objects.filter(
            table__study=study, table__source=source, table_id=table_id, name=name, fold=None
        )
        .select_related("table__artifact")
        .first()
    )
    if column is None:
        raise _no_stratifier(f"{source} column {name!r} in table {table_id}")
    table = column.table
    return Column(
        Stratifier(
            source=source,
            name=name,
            label=column_label(table, name, column.label),
            unit=table.unit,
            table=table.name,
            model=model_name(table),
        ),
        _read(table, [name])[name],
        exposed_to(table),
    )


def _no_stratifier(what: str) -> InputError:
    return InputError(
        "survival.stratifier",
        "stratifier",
        f"This study has no {what}.",
        "Search for a variable of this study and choose one of those found.",
    )


def _read(table: PatientTable, names: list[str]) -> pd.DataFrame:
    """Columns of a patient table by patient code."""
    frame = pd.read_parquet(local(table.artifact), columns=names)
    frame.index = frame.index.astype(str)
    return frame.astype(float)


def table_columns(study: Study, wanted: dict[int, list[str]]) -> dict[int, pd.DataFrame]:
    """Several columns of several tables: table id → frame by patient code.

    Values of patients that a predicted table's model was trained on are missing.

    Raises:
        InputError: a table or column is not the study's.
    """
    found = study.patient_tables.filter(pk__in=wanted).select_related("artifact")
    tables = {table.pk: table for table in found}
    known = set(
        PatientColumn.objects.filter(table__in=tables, fold=None).values_list("table_id", "name")
    )
    frames = {}
    for table_id, names in wanted.items():
        for name in names:
            if (table_id, name) not in known:
                raise _no_stratifier(f"column {name!r} in table {table_id}")
        frame = _read(tables[table_id], names)
        frames[table_id] = frame[~frame.index.isin(exposed_to(tables[table_id]))]
    return frames


def model_name(table: PatientTable) -> str:
    """ "PAST v3" behind a predicted table, the risk model's name behind a risk table, else ""."""
    if table.source == PatientTable.Source.RISK:
        return table.name
    if table.source != PatientTable.Source.PREDICTED:
        return ""
    version = ModelVersion.objects.filter(artifact=table.model_artifact_id).order_by("pk").first()
    return version.name if version else "a model no longer registered"


def column_label(table: PatientTable, name: str, label: str) -> str:
    if table.source == PatientTable.Source.PREDICTED:
        return f"{label or name} (predicted)"
    return label or name


def exposed_to(table: PatientTable) -> frozenset[str]:
    """Codes of the patients in the training or validation part of the model behind the table."""
    if table.model_artifact_id is None:
        return frozenset()
    return frozenset(
        Exposure.objects.filter(
            model_artifact=table.model_artifact_id, patient__study=table.study_id, part__in=SEEN
        ).values_list("patient__code", flat=True)
    )


def without_exposed(frame: pd.DataFrame, column: Column) -> tuple[pd.DataFrame, list[Exclusion]]:
    """Keep patients out that the column's model was trained on."""
    rows = frame["patient"].isin(column.exposed)
    reason = (
        f"Training patient of {column.stratifier.model}: its predictions for them are not "
        "independent of what it was taught"
    )
    left_out = [Exclusion(reason, tuple(frame.loc[rows, "patient"]))] if rows.any() else []
    return frame[~rows], left_out
