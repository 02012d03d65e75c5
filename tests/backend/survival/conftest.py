"""A study with outcomes, clinical columns, and measured and predicted patient tables."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

N = 80
STAGES = ("I", "II", "III")


@pytest.fixture
def store(object_store, tmp_path):
    """`store(frame or path, kind) -> Artifact` in this test's object store."""
    from django.conf import settings

    from backend.jobs.models import Artifact
    from ml.io.store import ObjectStore

    def put(content, kind):
        if not isinstance(content, Path):
            path = tmp_path / f"{kind}-{hashlib.sha256(content.to_csv().encode()).hexdigest()[:8]}"
            content.to_parquet(path)
            content = path
        stored = ObjectStore(settings.OBJECT_STORE, cache=settings.VAR / "cache").put(content)
        return Artifact.objects.create(
            sha256=stored.sha256, uri=stored.uri, bytes=stored.bytes, kind=kind
        )

    return put


@pytest.fixture
def cohort(study, store, tmp_path):
    """The study filled: gene BAD raises the hazard; patients 0–9 trained the model PAST v1."""
    from backend.registry.models import (
        Dataset,
        Exposure,
        ModelVersion,
        PatientColumn,
        PatientTable,
    )
    from backend.studies.models import ClinicalColumn, ClinicalValue, Endpoint, Outcome, Patient

    rng = np.random.default_rng(5)
    patients = Patient.objects.bulk_create(
        Patient(study=study, code=f"P{i:02}", site="A") for i in range(N)
    )
    codes = pd.Index([patient.code for patient in patients], name="patient")
    bad, other = rng.normal(size=(2, N))
    hidden, limit = rng.exponential(30 * np.exp(-bad)), rng.uniform(5, 90, N)
    endpoint = Endpoint.objects.create(
        study=study, code="OS", label="Overall survival", time_zero="diagnosis",
        causes={"1": "death from disease", "2": "other death"},
    )  # fmt: skip
    # The last patient has no outcome.
    Outcome.objects.bulk_create(
        Outcome(
            patient=patient, endpoint=endpoint, time=float(np.minimum(hidden, limit)[i]),
            cause=0 if hidden[i] > limit[i] else 1 + int(i % 5 == 0),
        )
        for i, patient in enumerate(patients[:-1])
    )  # fmt: skip
    age = ClinicalColumn.objects.create(
        study=study, name="age", label="Age", kind="number", unit="years"
    )
    stage = ClinicalColumn.objects.create(
        study=study, name="stage", label="Stage", kind="category", levels=list(STAGES), position=1
    )
    # Patient 20 has no age.
    ClinicalValue.objects.bulk_create(
        ClinicalValue(patient=p, column=age, number=float(rng.normal(60, 9)))
        for i, p in enumerate(patients)
        if i != 20
    )
    ClinicalValue.objects.bulk_create(
        ClinicalValue(patient=p, column=stage, text=STAGES[i % 3]) for i, p in enumerate(patients)
    )

    def table(name, source, frame, model=None):
        made = PatientTable.objects.create(
            study=study, name=name, source=source, unit="log1p", model_artifact=model,
            artifact=store(frame, "patient_table"), n_patients=len(frame),
        )  # fmt: skip
        PatientColumn.objects.bulk_create(PatientColumn(table=made, name=c) for c in frame.columns)
        return made

    measured = table("bulk RNA", "measured", pd.DataFrame({"BAD": bad, "OTHER": other}, codes))
    weights = tmp_path / "model"
    weights.write_bytes(b"weights")
    model = store(weights, "model")
    listing = tmp_path / "dataset"
    listing.write_bytes(b"dataset")
    dataset = Dataset.objects.create(
        study=study, version=1, artifact=store(listing, "dataset"), row_kind="cell"
    )
    version = ModelVersion.objects.create(
        study=study, version=1, artifact=model, dataset=dataset, row_kind="cell"
    )
    parts = ["train"] * 6 + ["validation"] * 4 + ["test"] * 5
    Exposure.objects.bulk_create(
        Exposure(model_artifact=model, patient=patients[i], part=part)
        for i, part in enumerate(parts)
    )
    guess = pd.DataFrame({"BAD": bad + rng.normal(0, 0.3, N)}, codes)
    predicted = table("PAST v1 predicted expression", "predicted", guess, model)
    return SimpleNamespace(
        study=study, endpoint=endpoint, measured=measured, predicted=predicted, version=version,
        patients=patients, bad=bad,
    )  # fmt: skip


@pytest.fixture
def client_of(make_user):
    """`client_of(role) -> APIClient` of a user with that role in `study`; None: a stranger."""
    from rest_framework.test import APIClient

    def make(role=None):
        client = APIClient()
        client.user = make_user(role)
        client.force_authenticate(client.user)
        return client

    return make
