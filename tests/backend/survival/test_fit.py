"""Fitting a risk model as a real job on the real worker, and stratifying by what it made."""

import pytest
from django.urls import reverse

from backend.accounts.models import AuditEvent
from backend.jobs.models import Artifact, Job
from backend.survival.models import RiskModel

FIT = {"endpoint": "OS", "clinical": ["age"], "folds": 2}


def fit_url():
    return reverse("api-survival-fit", args=["study"])


@pytest.mark.django_db(transaction=True)
def test_fit_becomes_a_risk_that_divides_the_cohort(cohort, client_of, start_worker, finish):
    start_worker()
    client = client_of("investigator")
    features = [
        {"table": cohort.measured.pk, "name": "BAD"},
        {"table": cohort.predicted.pk, "name": "BAD"},
    ]
    answer = client.post(fit_url(), FIT | {"features": features}, format="json")
    assert answer.status_code == 202, answer.content
    job = finish(Job.objects.get(pk=answer.json()["id"]), seconds=120)
    assert job.status == Job.Status.SUCCEEDED, job.failure

    fitted = RiskModel.objects.get(study=cohort.study)
    # 80 patients, but for one without outcome, one without age, ten the model was trained on.
    assert fitted.metrics["n"] == fitted.risks.n_patients == 68
    assert fitted.metrics["concordance"]["risk"]["low"] > 0.5
    assert fitted.artifact.kind == Artifact.Kind.RISK_MODEL
    assert set(fitted.artifact.inputs.all()) == {
        cohort.measured.artifact,
        cohort.predicted.artifact,
    }
    assert AuditEvent.objects.filter(action="survival.fit", actor=client.user).exists()

    (link,) = job.result["links"]
    page, query = link["url"].split("?")
    assert page == reverse("survival", args=["study"])
    shown = client.post(
        reverse("api-km", args=["study"]),
        {
            "endpoint": "OS",
            "stratifier": {"source": "risk", "table": fitted.risks_id, "name": "risk"},
        },
        format="json",
    ).json()
    assert shown["log_rank"]["p"] < 0.01
    assert "Predicted by OS risk model 1" in shown["labels"]
    assert f"table={fitted.risks_id}" in query


@pytest.mark.parametrize(
    ("status", "change"),
    [
        (422, {"endpoint": "PFS"}),
        (422, {"clinical": ["shoe size"]}),
        (422, {"features": [{"table": 999_999, "name": "BAD"}]}),
        (400, {"folds": 1}),
        (400, {"clinical": "age"}),
    ],
)
def test_impossible_fits_start_no_job(status, change, cohort, client_of):
    answer = client_of("admin").post(fit_url(), FIT | change, format="json")
    assert answer.status_code == status
    assert not Job.objects.exists()
