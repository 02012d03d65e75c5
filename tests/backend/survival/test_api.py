"""The survival API: who may, what comes back, who is left out, what exports say."""

import csv
import io
import xml.etree.ElementTree as ET

import pytest
from django.http import QueryDict
from django.urls import reverse
from pydantic import ValidationError

from backend.accounts.models import AuditEvent
from backend.accounts.permissions import PERMISSIONS, Action, Role
from backend.survival.models import SurvivalAnalysis
from backend.survival.questions import KaplanMeierRequest

RUO = "Research use only – not for diagnosis or treatment"
OVERALL = {"endpoint": "OS"}


def url(name, *args):
    return reverse(f"api-{name}", args=["study", *args])


def by_measured(cohort, **more):
    ref = {"source": "measured", "table": cohort.measured.pk, "name": "BAD"}
    return {"endpoint": "OS", "stratifier": ref} | more


def by_predicted(cohort, **more):
    ref = {"source": "predicted", "table": cohort.predicted.pk, "name": "BAD"}
    return {"endpoint": "OS", "stratifier": ref} | more


def ask(client, request):
    answer = client.post(url("km"), request, format="json")
    assert answer.status_code == 200, answer.content
    return answer.json()


def reasons(analysis):
    return {one["reason"]: one["patients"] for one in analysis["exclusions"]}


# --- permissions --------------------------------------------------------------------------------


def calls(client, saved):
    """Every endpoint of this app: action → status of one call."""
    fit = {"endpoint": "OS", "clinical": ["age"], "folds": 3}
    yield Action.SURVIVAL_VIEW, client.post(url("km"), OVERALL, format="json")
    yield Action.SURVIVAL_VIEW, client.get(url("km-csv"), OVERALL)
    yield Action.SURVIVAL_VIEW, client.get(url("km-svg"), OVERALL)
    yield Action.SURVIVAL_VIEW, client.get(url("stratifiers"))
    yield Action.SURVIVAL_VIEW, client.get(url("survival-saved"))
    body = {"name": "mine", "request": OVERALL}
    yield Action.SURVIVAL_SAVE, client.post(url("survival-saved"), body, format="json")
    yield Action.SURVIVAL_FIT, client.post(url("survival-fit"), fit, format="json")
    yield Action.SURVIVAL_SAVE, client.delete(url("survival-saved-one", saved.pk))


@pytest.mark.parametrize("role", [None, *Role])
def test_each_role_on_each_endpoint(role, cohort, client_of):
    client = client_of(role)
    saved = SurvivalAnalysis.objects.create(
        study=cohort.study, name="s", created_by=client.user,
        request=KaplanMeierRequest(endpoint="OS").model_dump(mode="json"),
    )  # fmt: skip
    for action, answer in calls(client, saved):
        if role is None:
            assert answer.status_code == 404, answer.request
        elif role in PERMISSIONS[action]:
            assert answer.status_code in (200, 201, 202, 204), answer.content
        else:
            assert answer.status_code == 403, answer.request
            assert answer["Content-Type"] == "application/problem+json"


def test_who_is_not_logged_in_gets_nothing(cohort, client):
    assert client.post(url("km"), OVERALL, content_type="application/json").status_code in (
        401,
        403,
    )
    page = client.get(reverse("survival", args=["study"]))
    assert page.status_code == 302 and "login" in page["Location"]


@pytest.mark.parametrize(("role", "status"), [(None, 404), ("member", 403), ("investigator", 200)])
def test_page_by_role(role, status, cohort, client, make_user):
    client.force_login(make_user(role))
    answer = client.get(reverse("survival", args=["study"]))
    assert answer.status_code == status
    if status == 200:
        assert RUO in answer.content.decode()


def test_tables_of_another_study_do_not_exist(cohort, make_study, make_user, client_of):
    from rest_framework.test import APIClient

    from backend.studies.models import Endpoint, Outcome, Patient

    other = make_study(slug="other")
    endpoint = Endpoint.objects.create(
        study=other, code="OS", label="OS", time_zero="diagnosis", causes={"1": "death"}
    )
    patient = Patient.objects.create(study=other, code="X")
    Outcome.objects.create(patient=patient, endpoint=endpoint, time=3, cause=1)
    client = APIClient()
    client.force_authenticate(make_user("admin", study=other))
    answer = client.post(reverse("api-km", args=["other"]), by_measured(cohort), format="json")
    assert answer.status_code == 422 and answer.json()["code"] == "survival.stratifier"
    found = client.get(reverse("api-stratifiers", args=["other"]), {"search": "BAD"}).json()
    assert found == {"total": 0, "results": []}


# --- analyses -----------------------------------------------------------------------------------


def test_everybody_without_an_outcome_is_left_out_and_named(cohort, client_of):
    analysis = ask(client_of("investigator"), OVERALL)
    assert analysis["n"] == 79 and analysis["n_cohort"] == 80
    assert reasons(analysis) == {"No OS outcome recorded": ["P79"]}
    assert analysis["log_rank"] is None


def test_planted_gene_divides_the_cohort(cohort, client_of):
    analysis = ask(client_of("investigator"), by_measured(cohort))
    assert analysis["cut"] == "median"
    assert [s["label"].split()[0] for s in analysis["strata"]] == ["Low", "High"]
    assert analysis["log_rank"]["p"] < 1e-3
    assert analysis["hazard_ratios"][0]["ratio"] > 1.5
    assert "median" in analysis["cutoffs"][0]["name"] and analysis["cutoffs"][0]["from_data"]
    assert analysis["figure"]["layout"]["xaxis"]["tickvals"] == analysis["at_risk"]["ticks"]
    assert RUO in analysis["methods"]


def test_training_patients_of_the_model_are_kept_out(cohort, client_of):
    client = client_of("investigator")
    analysis = ask(client, by_predicted(cohort))
    kept_out = next(p for reason, p in reasons(analysis).items() if reason.startswith("Training"))
    # Train and validation, but not the test part.
    assert kept_out == [f"P{i:02}" for i in range(10)]
    assert analysis["n"] == 69
    assert "Predicted by PAST v1" in analysis["labels"]

    asked = ask(client, by_predicted(cohort, include_training=True))
    assert asked["n"] == 79
    assert "Includes 10 training patients of the model" in asked["labels"]
    assert any("not independent" in note for note in asked["notes"])


def test_measured_values_of_training_patients_stay(cohort, client_of):
    analysis = ask(client_of("investigator"), by_measured(cohort))
    assert analysis["n"] == 79
    assert not any("redicted" in label for label in analysis["labels"])


def test_missing_clinical_value_is_left_out(cohort, client_of):
    ref = {"source": "clinical", "name": "age"}
    analysis = ask(client_of("admin"), {"endpoint": "OS", "stratifier": ref})
    assert reasons(analysis)["Age missing"] == ["P20"]
    assert analysis["strata"][0]["label"].endswith("years)")


def test_levels_come_in_the_studys_order_and_can_be_chosen(cohort, client_of):
    client = client_of("admin")
    ref = {"source": "clinical", "name": "stage"}
    analysis = ask(client, {"endpoint": "OS", "stratifier": ref})
    assert [s["label"] for s in analysis["strata"]] == ["I", "II", "III"]
    analysis = ask(client, {"endpoint": "OS", "stratifier": ref, "levels": ["I", "III"]})
    assert [s["label"] for s in analysis["strata"]] == ["I", "III"]
    assert len(reasons(analysis)["Level not chosen"]) > 20


def test_cause_can_be_chosen_and_the_others_censor(cohort, client_of):
    client = client_of("admin")
    either, disease = (ask(client, OVERALL | {"causes": causes}) for causes in ([], [1]))
    assert disease["events"] == cohort.endpoint.outcomes.filter(cause=1).count()
    assert either["events"] == cohort.endpoint.outcomes.filter(cause__gt=0).count()
    assert disease["n"] == either["n"]
    assert any("cause-specific" in note for note in disease["notes"])
    assert "death from disease" in disease["methods"]


@pytest.mark.parametrize(
    ("code", "request_"),
    [
        ("survival.endpoint", {"endpoint": "PFS"}),
        ("survival.cause", {"endpoint": "OS", "causes": [7]}),
        ("survival.stratifier",
         {"endpoint": "OS", "stratifier": {"source": "clinical", "name": "shoe size"}}),
        ("survival.landmark", {"endpoint": "OS", "landmark": 50, "horizon": 20}),
        ("survival.no_value",
         {"endpoint": "OS", "stratifier": {"source": "clinical", "name": "age"}, "cut": "value"}),
    ],
)  # fmt: skip
def test_questions_without_an_answer_say_what_to_do(code, request_, cohort, client_of):
    answer = client_of("admin").post(url("km"), request_, format="json")
    assert answer.status_code == 422
    assert answer.json()["code"] == code
    assert answer.json()["remedy"]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"endpoint": "OS", "horizon": -3},
        {"endpoint": "OS", "cut": "best"},
        {"endpoint": "OS", "stratifier": {"source": "measured", "name": "BAD"}},
        {"endpoint": "OS", "unknown": 1},
    ],
)
def test_requests_that_make_no_sense(request_, cohort, client_of):
    assert client_of("admin").post(url("km"), request_, format="json").status_code == 400


# --- exports ------------------------------------------------------------------------------------


def test_csv_is_labelled_and_holds_the_life_tables(cohort, client_of):
    cohort.study.synthetic = True
    cohort.study.save()
    client = client_of("investigator")
    query = KaplanMeierRequest.model_validate(by_predicted(cohort, cut="tertiles")).query()
    answer = client.get(f"{url('km-csv')}?{query}")
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer["Content-Disposition"]
    lines = answer.content.decode().splitlines()
    head = "\n".join(line for line in lines if line.startswith("#"))
    for words in (RUO, "Synthetic data", "Predicted by PAST v1"):
        assert words in head
    body = "\n".join(line for line in lines if not line.startswith("#"))
    rows = list(csv.DictReader(io.StringIO(body)))
    analysis = ask(client, by_predicted(cohort, cut="tertiles"))
    for stratum in analysis["strata"]:
        mine = [row for row in rows if row["stratum"] == stratum["label"]]
        assert int(mine[0]["at_risk"]) == stratum["n"]
        assert sum(int(row["events"]) for row in mine) == stratum["events"]


def test_svg_is_labelled_and_shows_the_same_strata(cohort, client_of):
    client = client_of("investigator")
    query = KaplanMeierRequest.model_validate(by_predicted(cohort)).query()
    answer = client.get(f"{url('km-svg')}?{query}", headers={"accept": "image/svg+xml"})
    assert answer["Content-Type"] == "image/svg+xml; charset=utf-8"
    text = "".join(ET.fromstring(answer.content).itertext())
    assert RUO in text and "Predicted by PAST v1" in text
    for stratum in ask(client, by_predicted(cohort))["strata"]:
        assert stratum["label"] in text


def test_export_of_an_impossible_question_is_a_problem_not_a_file(cohort, client_of):
    answer = client_of("admin").get(
        url("km-csv"), {"endpoint": "PFS"}, headers={"accept": "text/csv"}
    )
    assert answer.status_code == 422
    assert b"no endpoint" in answer.content


@pytest.mark.parametrize(
    "request_",
    [
        {"endpoint": "OS"},
        {"endpoint": "OS", "horizon": 60, "landmark": 6.5, "causes": [1, 2]},
        {"endpoint": "OS", "stratifier": {"source": "risk", "table": 3, "name": "risk"},
         "cut": "value", "value": 0, "include_training": True},
        {"endpoint": "OS", "stratifier": {"source": "clinical", "name": "T stage & more"},
         "cut": "levels", "levels": ["T1, a", "T2"]},
    ],
)  # fmt: skip
def test_an_address_carries_the_whole_request(request_):
    asked = KaplanMeierRequest.model_validate(request_)
    assert KaplanMeierRequest.from_query(QueryDict(asked.query())) == asked


def test_an_address_that_makes_no_sense_is_refused():
    with pytest.raises(ValidationError):
        KaplanMeierRequest.from_query(QueryDict("endpoint=OS&source=measured&name=BAD"))


# --- stratifiers --------------------------------------------------------------------------------


def test_search_finds_clinical_measured_and_predicted(cohort, client_of):
    client = client_of("investigator")
    everything = client.get(url("stratifiers")).json()
    assert [(o["source"], o["name"]) for o in everything["results"]] == [
        ("clinical", "age"), ("clinical", "stage"), ("predicted", "BAD"), ("measured", "BAD"),
        ("measured", "OTHER"),
    ]  # fmt: skip
    found = client.get(url("stratifiers"), {"search": "bad"}).json()
    assert found["total"] == 2
    predicted, measured = found["results"]
    assert predicted["model"] == "PAST v1" and predicted["label"] == "BAD (predicted)"
    assert measured["model"] == "" and measured["table_name"] == "bulk RNA"


def test_exact_name_comes_first_and_what_is_not_shown_is_counted(cohort, client_of):
    from backend.registry.models import PatientColumn

    PatientColumn.objects.bulk_create(
        PatientColumn(table=cohort.measured, name=f"AAA{i}OTHER") for i in range(60)
    )
    found = client_of("admin").get(url("stratifiers"), {"search": "other"}).json()
    assert found["results"][0]["name"] == "OTHER"
    assert found["total"] == 61 and len(found["results"]) == 30


# --- saved --------------------------------------------------------------------------------------


def test_saving_keeps_the_request_and_records_it(cohort, client_of):
    client = client_of("investigator")
    body = {"name": "Bad gene", "request": by_measured(cohort, cut="quartiles")}
    saved = client.post(url("survival-saved"), body, format="json")
    assert saved.status_code == 201
    (listed,) = client.get(url("survival-saved")).json()
    assert listed["name"] == "Bad gene" and listed["deletable"]
    again = KaplanMeierRequest.from_query(QueryDict(listed["query"]))
    assert again.cut == "quartiles" and again.stratifier.table == cohort.measured.pk
    event = AuditEvent.objects.get(action="survival.save")
    assert event.actor == client.user and event.detail["name"] == "Bad gene"


def test_what_cannot_be_answered_is_not_saved(cohort, client_of):
    body = {"name": "no", "request": {"endpoint": "PFS"}}
    assert client_of("admin").post(url("survival-saved"), body, format="json").status_code == 422
    assert not SurvivalAnalysis.objects.exists()


def test_others_analyses_are_deleted_by_admins_only(cohort, client_of):
    author, colleague, admin = (
        client_of("investigator"),
        client_of("investigator"),
        client_of("admin"),
    )
    body = {"name": "mine", "request": OVERALL}
    pk = author.post(url("survival-saved"), body, format="json").json()["id"]
    assert not colleague.get(url("survival-saved")).json()[0]["deletable"]
    assert colleague.delete(url("survival-saved-one", pk)).status_code == 403
    assert SurvivalAnalysis.objects.filter(pk=pk).exists()
    assert admin.delete(url("survival-saved-one", pk)).status_code == 204
    assert not SurvivalAnalysis.objects.filter(pk=pk).exists()
    assert AuditEvent.objects.get(action="survival.delete").actor == admin.user


# --- opening ------------------------------------------------------------------------------------


def test_dashboard_opens_with_the_stage_where_there_is_one(cohort):
    from backend.survival.selectors import opening_request

    assert opening_request(cohort.study).stratifier.name == "stage"
    cohort.study.clinical_columns.filter(name="stage").delete()
    assert opening_request(cohort.study) == KaplanMeierRequest(endpoint="OS")
    cohort.endpoint.outcomes.update(cause=0)
    assert opening_request(cohort.study) is None


def test_reads_take_few_queries_whatever_the_cohort(
    cohort, client_of, django_assert_max_num_queries
):
    client = client_of("investigator")
    request = by_predicted(cohort)
    with django_assert_max_num_queries(10):
        ask(client, request)
