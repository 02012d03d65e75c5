"""The curve on a study's own page: which one it is, and for whom."""

from django.urls import reverse

from backend.accounts.permissions import Role
from backend.survival.landing import study_figure
from backend.survival.models import RiskModel

URL = reverse("api-study-figure", args=["study"])


def test_members_do_not_see_it(client_of, cohort):
    assert client_of(Role.MEMBER).get(URL).status_code == 403
    assert client_of(None).get(URL).status_code == 404


def test_no_outcomes(client_of, study):
    assert client_of(Role.INVESTIGATOR).get(URL).status_code == 404
    assert study_figure(study) is None


def test_a_clinical_column_while_nothing_is_predicted(client_of, cohort):
    answer = client_of(Role.INVESTIGATOR).get(URL).json()
    assert (answer["stratifier"]["source"], answer["stratifier"]["name"]) == ("clinical", "stage")
    assert answer["query"].startswith("endpoint=OS")


def test_the_first_feature_of_the_risk_model(cohort, store):
    import pandas as pd

    from tests.backend.rows import add_job

    params = {
        "endpoint": "OS", "clinical": ["age"],
        "features": [{"table": cohort.predicted.pk, "name": "BAD"}],
    }  # fmt: skip
    fit = add_job(cohort.study, "fit_survival", parameters=params, status="succeeded")
    RiskModel.objects.create(
        study=cohort.study, endpoint=cohort.endpoint, risks=cohort.predicted, job=fit,
        artifact=store(pd.DataFrame({"risk": [1.0]}), "risk_model"),
    )  # fmt: skip
    request, analysis = study_figure(cohort.study)
    assert (request.stratifier.name, request.cut) == ("BAD", "median")
    reasons = [exclusion.reason for exclusion in analysis.exclusions]
    assert any("Training patient" in reason for reason in reasons), reasons
