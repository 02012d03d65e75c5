"""Importing a study: what it makes, and that a bad one leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from io import StringIO

import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.core.management.base import CommandError

from backend.accounts.models import AuditEvent
from backend.cells.expression import open_table
from backend.cells.models import CellTable
from backend.jobs.models import Artifact, Job
from backend.jobs.services import local
from backend.registry.models import PatientTable
from backend.registry.services import request_import, start_import
from backend.slides.models import Slide
from backend.studies.models import (
    ClinicalValue,
    Membership,
    Outcome,
    Patient,
    Specimen,
    Study,
)
from ml.errors import InputError

ROWS = (Study, Membership, Patient, ClinicalValue, Outcome, Specimen, Slide, CellTable, Artifact,
        PatientTable)  # fmt: skip


@pytest.fixture
def staff(make_user):
    return make_user(is_staff=True)


def n_slides(folder) -> str:
    """What the import says of a folder; the real slide is there only where it is installed."""
    return f"{len((folder / 'slides.csv').read_text().splitlines()) - 1} slides"


def test_import_makes_the_study_and_its_files(run_here, staff, tiny_folder):
    job = run_here(start_import(user=staff, path=str(tiny_folder), form="auto"))

    assert job.status == Job.Status.SUCCEEDED, job.failure
    study = Study.objects.get()
    head = json.loads((tiny_folder / "study.json").read_text())
    assert (study.slug, study.name, study.synthetic) == (head["slug"], head["name"], True)
    assert job.study == study
    assert job.result["links"] == [{"label": study.name, "url": f"/studies/{study.slug}/"}]
    assert study.memberships.get().user == staff and study.memberships.get().role == "admin"
    n_patients = len((tiny_folder / "patients.csv").read_text().splitlines()) - 1
    assert study.patients.count() == n_patients
    assert Outcome.objects.filter(patient__study=study).count() > 0
    assert study.clinical_columns.count() == len(head["clinical"])
    assert n_slides(tiny_folder) == f"{study.slides.count()} slides"
    measured = CellTable.objects.filter(n_genes__gt=0)
    assert measured.count() == 10 and {t.source for t in measured} == {"measured"}
    table = measured.select_related("artifact").first()
    assert open_table(table.artifact).n_rows == table.n_rows
    assert list(table.artifact.inputs.all()) == [table.slide.artifact]
    assert local(study.slides.first().thumbnail).read_bytes()[:3] == b"\xff\xd8\xff"
    patients = PatientTable.objects.get(study=study)
    assert patients.source == "measured" and patients.n_patients == 10
    assert patients.columns.count() == table.n_genes
    assert AuditEvent.objects.filter(action="study.create", study_id=study.pk, actor=staff).exists()


def test_the_same_slug_is_refused_and_nothing_changes(run_here, staff, tiny_folder):
    run_here(start_import(user=staff, path=str(tiny_folder), form="study"))
    before = [model.objects.count() for model in ROWS]

    job = run_here(start_import(user=staff, path=str(tiny_folder), form="study"))

    assert (job.status, job.failure_kind) == (Job.Status.FAILED, Job.FailureKind.INPUT)
    assert job.failure["code"] == "study.exists" and "slug" in job.failure["remedy"]
    assert [model.objects.count() for model in ROWS] == before


@pytest.mark.parametrize(
    ("file", "old", "new", "code"),
    [
        ("outcomes.csv", "\n", "\nP001,OS,0,-3,1\n", "outcome.negative_time"),
        ("patients.csv", "\nP002,", "\nP001,", "patient.twice"),
        ("slides.csv", ",P001,", ",P999,", "patient.unknown"),
    ],
)
def test_bad_input_leaves_the_database_as_it_was(
    run_here, staff, tiny_folder, tmp_path, file, old, new, code
):
    folder = tmp_path / "bad"
    shutil.copytree(tiny_folder, folder)
    text = (folder / file).read_text()
    changed = text.replace(old, new, 1)
    assert changed != text
    (folder / file).write_text(changed)

    job = run_here(start_import(user=staff, path=str(folder), form="study"))

    assert (job.status, job.failure_kind) == (Job.Status.FAILED, Job.FailureKind.INPUT)
    assert job.failure["code"] == code
    assert job.failure["where"].startswith(f"{file} row ")
    assert job.failure["remedy"]
    assert [model.objects.count() for model in ROWS] == [0] * len(ROWS)


def test_a_commit_that_fails_half_way_leaves_the_database_as_it_was(
    run_here, staff, tiny_folder, make_study, monkeypatch
):
    """The slug is taken while the slides are converted: only the commit can notice."""
    job = start_import(user=staff, path=str(tiny_folder), form="study")
    slug = json.loads((tiny_folder / "study.json").read_text())["slug"]

    from backend.jobs import children

    class TakesTheSlug(children.Child):
        def close(self):
            make_study(slug=slug)
            return super().close()

    monkeypatch.setattr(children, "Child", TakesTheSlug)
    job = run_here(job)

    assert job.failure["code"] == "study.exists"
    assert Study.objects.count() == 1
    assert Patient.objects.count() == Slide.objects.count() == Artifact.objects.count() == 0


def test_only_staff_may_import(db, make_user, tmp_path, settings):
    settings.IMPORT_ROOTS = [str(tmp_path)]
    with pytest.raises(PermissionDenied):
        request_import(user=make_user("admin"), params={"path": str(tmp_path)})


class TestImportRoots:
    @pytest.fixture
    def root(self, tmp_path, settings):
        root = tmp_path / "incoming"
        root.mkdir()
        settings.IMPORT_ROOTS = [str(root)]
        return root

    def test_inside(self, root, staff):
        (root / "study").mkdir()
        job = request_import(user=staff, params={"path": str(root / "study" / ".." / "study")})
        assert job.parameters["path"] == str((root / "study").resolve())

    @pytest.mark.parametrize(
        "path",
        ["/etc", "{root}/../elsewhere", "{root}-beside", "relative", "a\0b", "/" + "a" * 4000],
    )
    def test_outside_and_missing_are_told_alike(self, root, staff, tmp_path, path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "incoming-beside").mkdir()
        told = []
        for asked in (path.format(root=root), str(root / "missing")):
            with pytest.raises(InputError) as error:
                request_import(user=staff, params={"path": asked})
            told.append((error.value.code, error.value.what, error.value.remedy))
        assert told[0] == told[1]
        assert not Job.objects.exists()

    def test_a_link_that_leads_out(self, root, staff, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (root / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=r"import.path|no such folder"):
            request_import(user=staff, params={"path": str(root / "link")})

    def test_a_link_inside_the_folder_that_leads_out(self, root, staff, tmp_path):
        (tmp_path / "secret.svs").write_bytes(b"")
        (root / "study" / "slides").mkdir(parents=True)
        (root / "study" / "slides" / "a.svs").symlink_to(tmp_path / "secret.svs")
        with pytest.raises(InputError) as error:
            request_import(user=staff, params={"path": str(root / "study")})
        assert error.value.code == "import.link"
        assert error.value.where.endswith("slides/a.svs")


@pytest.mark.django_db(transaction=True)
class TestCommand:
    def test_import_study_without_a_worker(self, run_here, make_user, tiny_folder):
        admin = make_user(is_staff=True, is_superuser=True)
        out = StringIO()

        call_command("import_study", str(tiny_folder), stdout=out)

        told = out.getvalue()
        assert (
            "working here" in told and "Converting slides" in told and n_slides(tiny_folder) in told
        )
        assert Study.objects.get().memberships.get().user == admin

    def test_a_failure_is_told_with_its_remedy(self, run_here, make_user, tmp_path):
        make_user(is_staff=True, is_superuser=True)
        (tmp_path / "study.json").write_text("{")
        with pytest.raises(CommandError, match=r"study\.json"):
            call_command("import_study", str(tmp_path), stdout=StringIO())

    def test_a_worker_that_runs_does_the_work(self, start_worker, make_user, tiny_folder):
        make_user(is_staff=True, is_superuser=True)
        start_worker()
        out = StringIO()

        call_command("import_study", str(tiny_folder), "--format", "study", stdout=out)

        assert n_slides(tiny_folder) in out.getvalue()

    def test_somebody_who_may_not_import(self, db, make_user, tmp_path):
        make_user(username="plain")
        with pytest.raises(CommandError, match="staff"):
            call_command("import_study", str(tmp_path), "--user", "plain")
