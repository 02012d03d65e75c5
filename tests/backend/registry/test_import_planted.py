"""What an import makes of planned parts, drawn and real slides in one study, and the truth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.jobs.models import Artifact, Job
from backend.registry.models import PlantedTruth
from backend.registry.planted import planted_truth
from backend.registry.services import start_import
from backend.studies.models import Outcome, Study
from ml.io.slides import write_pyramid
from tests.ml.io.conftest import HEAD, picture
from tests.ml.io.test_study_planted import TRUTH


@pytest.fixture
def folder(tmp_path) -> Path:
    """A synthetic study of two drawn patients, and a real slide of whom nothing is known."""
    folder = tmp_path / "study"
    (folder / "truth").mkdir(parents=True)
    write_pyramid(picture(), folder / "drawn.tif", mpp=0.5, mpp_source="drawn")
    write_pyramid(picture(seed=3), folder / "real.tif", mpp=0.5, mpp_source="a scanner")
    files = {
        "study.json": json.dumps(HEAD | {"synthetic": True}),
        "patients.csv": "patient,site,age,grade\nP1,A,61.5,2\nP2,B,70,1\nREAL1,elsewhere,,\n",
        "outcomes.csv": "patient,endpoint,entry,time,cause\nP1,OS,,12.5,1\nP2,OS,2,30,0\n",
        "parts.csv": "patient,part\nP1,train\nP2,test\n",
        "slides.csv": "slide,patient,path,synthetic\n"
        "P1-core,P1,drawn.tif,\nreal-tissue,REAL1,real.tif,no\n",
        "truth/truth.json": json.dumps(TRUTH | {"real_slide": "real-tissue"}),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def imported(run_here, make_user):
    def run(folder: Path) -> Job:
        return run_here(start_import(user=make_user(is_staff=True), path=str(folder), form="study"))

    return run


def test_parts_slides_and_truth(imported, folder, client, make_user):
    job = imported(folder)
    assert job.status == Job.Status.SUCCEEDED, job.failure
    study = Study.objects.get()
    assert dict(study.patients.values_list("code", "part")) == {
        "P1": "train", "P2": "test", "REAL1": "",
    }  # fmt: skip
    assert dict(study.slides.values_list("code", "synthetic")) == {
        "P1-core": True, "real-tissue": False,
    }  # fmt: skip
    real = study.patients.get(code="REAL1")
    assert (real.site, real.clinical_values.count(), real.outcomes.count()) == ("elsewhere", 0, 0)
    assert Outcome.objects.count() == 2
    assert planted_truth(study) == TRUTH | {"real_slide": "real-tissue"}
    artifact = PlantedTruth.objects.get(study=study).artifact
    assert (artifact.kind, artifact.job) == (Artifact.Kind.TRUTH, job)

    client.force_login(make_user("member", study))
    answer = client.get(f"/api/v1/studies/{study.slug}/patients/").json()["results"]
    assert [(p["patient"], p["part"]) for p in answer] == [
        ("P1", "train"), ("P2", "test"), ("REAL1", ""),
    ]  # fmt: skip
    assert answer[2]["values"] == answer[2]["outcomes"] == {}


def test_a_study_without_truth(imported, folder):
    (folder / "truth/truth.json").unlink()
    assert imported(folder).status == Job.Status.SUCCEEDED
    assert planted_truth(Study.objects.get()) is None


@pytest.mark.parametrize(
    ("file", "old", "new", "code"),
    [
        ("study.json", '"synthetic": true', '"synthetic": false', "truth.not_synthetic"),
        ("truth/truth.json", '"version": 1', '"version": 2', "truth.wrong"),
        ("parts.csv", "P2,test", "P3,test", "patient.unknown"),
        ("slides.csv", ",no\n", ",perhaps\n", "slides.synthetic"),
    ],
)
def test_what_is_wrong_leaves_nothing_behind(imported, folder, file, old, new, code):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    job = imported(folder)
    assert (job.status, job.failure_kind) == (Job.Status.FAILED, Job.FailureKind.INPUT)
    assert job.failure["code"] == code and job.failure["remedy"]
    assert not Study.objects.exists() and not Artifact.objects.exists()
