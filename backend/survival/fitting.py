"""The job kind `fit_survival`: rows become a cohort file, a fitted model becomes rows."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
from django.urls import reverse

from backend.accounts.services import record
from backend.jobs.kinds import Spec
from backend.jobs.models import Artifact, Job
from backend.jobs.services import store_artifact, work_folder
from backend.registry.models import PatientColumn, PatientTable
from backend.studies.models import Study
from backend.survival import cohorts
from backend.survival.models import RiskModel
from backend.survival.questions import FitParams, KaplanMeierRequest, StratifierRef

LABELS = {"risk": "Risk", "risk_clinical": "Risk, clinical columns only"}


def wanted_columns(study: Study, params: FitParams) -> dict[str, pd.Series]:
    """The columns to fit on, by the name they have in the cohort file and in the model.

    Values of patients that a predicted table's model was trained on are missing, so that the fit
    leaves them out. Raises InputError when the study lacks an endpoint or column.
    """
    cohorts.endpoint_of(study, params.endpoint)
    columns = {name: cohorts.clinical_column(study, name).values for name in params.clinical}
    wanted: dict[int, list[str]] = defaultdict(list)
    for feature in params.features:
        wanted[feature.table].append(feature.name)
    for table_id, frame in cohorts.table_columns(study, dict(wanted)).items():
        columns |= {_feature_name(table_id, name): frame[name] for name in frame.columns}
    return columns


def _feature_name(table_id: int, name: str) -> str:
    return f"{name} [table {table_id}]"


def prepare_fit(job: Job) -> Spec:
    params = FitParams.model_validate(job.parameters)
    study = job.study
    endpoint = cohorts.endpoint_of(study, params.endpoint)
    frame = cohorts.outcomes(study, endpoint)
    columns = wanted_columns(study, params)
    for name, values in columns.items():
        frame[name] = frame["patient"].map(values)
    path = work_folder(job) / "cohort.parquet"
    frame.to_parquet(path)
    return Spec(
        params={
            "endpoint": params.endpoint,
            "clinical": params.clinical,
            "features": [_feature_name(f.table, f.name) for f in params.features],
            "folds": params.folds,
            "seed": params.seed,
        },
        inputs={"cohort": str(path)},
    )


def commit_fit(job: Job, result: dict[str, Any], out: Path) -> dict[str, Any]:
    params = FitParams.model_validate(job.parameters)
    study = Study.objects.select_for_update().get(pk=job.study_id)
    endpoint = cohorts.endpoint_of(study, params.endpoint)
    used = study.patient_tables.filter(pk__in={f.table for f in params.features})
    model = store_artifact(
        job=job,
        path=out / result["model"],
        kind=Artifact.Kind.RISK_MODEL,
        inputs=[table.artifact for table in used.select_related("artifact")],
    )
    risks = store_artifact(
        job=job, path=out / result["risks"], kind=Artifact.Kind.PATIENT_TABLE, inputs=[model]
    )
    number = study.risk_models.count() + 1
    table = PatientTable.objects.create(
        study=study,
        name=f"{endpoint.code} risk model {number}",
        source=PatientTable.Source.RISK,
        unit=result["unit"],
        artifact=risks,
        model_artifact=model,
        n_patients=result["n_patients"],
    )
    PatientColumn.objects.bulk_create(
        PatientColumn(table=table, name=name, label=f"{LABELS[name]} ({table.name})")
        for name in result["columns"]
    )
    fitted = RiskModel.objects.create(
        study=study,
        endpoint=endpoint,
        artifact=model,
        risks=table,
        job=job,
        metrics=result["metrics"],
    )
    record(
        actor=job.created_by,
        action="survival.fit",
        subject=fitted,
        study=study,
        detail={"job": job.pk, "metrics": result["metrics"]},
    )
    shown = KaplanMeierRequest(
        endpoint=endpoint.code,
        stratifier=StratifierRef(source="risk", table=table.pk, name="risk"),
    )
    url = f"{reverse('survival', args=[study.slug])}?{shown.query()}"
    return {
        "risk_model": fitted.pk,
        "metrics": result["metrics"],
        "links": [{"label": f"Kaplan–Meier by {table.name}", "url": url}],
    }
