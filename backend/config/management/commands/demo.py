"""`manage.py demo`: the whole application on the synthetic study, from wherever it stands.

Every step asks what is there already, so a second run starts in seconds and loses nothing. The
jobs are ordinary jobs of the ordinary workers; this command only asks for them and looks on.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from io import StringIO
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import close_old_connections
from django.db.models import Q

from backend.accounts.models import User
from backend.jobs.models import Job
from backend.registry.models import ModelVersion, PatientTable
from backend.registry.services import start_import, start_prediction, start_training
from backend.slides.models import Slide
from backend.studies.models import Study
from backend.survival.models import RiskModel
from backend.survival.services import start_fit

SLUG = "synthetic-demo"
SEED = 1
LYMPHOCYTE_GENES = ("CD3D", "CD3E", "CD8A")


class Command(BaseCommand):
    help = "Sets up, serves and fills the synthetic demo study; safe to run again."

    def add_arguments(self, parser):
        parser.add_argument("--port", type=int, default=8000)

    def handle(self, *, port: int, **_):
        started = time.monotonic()
        self.stdout.write("Research use only – not for diagnosis or treatment.\n")
        call_command("migrate", verbosity=0)
        call_command("create_demo_users", stdout=StringIO())
        admin = User.objects.get(username="admin")
        folder = self._drawn_study(settings.VAR / "demo-study")
        address = self._served(port)
        study = self._imported(admin, folder)
        call_command("create_demo_users", study=[study.slug], stdout=StringIO())
        self._greet(address, time.monotonic() - started)
        model = self._trained(admin, study)
        self._predicted(admin, study, model)
        self._risk_fitted(admin, study)
        self.stdout.write(
            f"All there after {time.monotonic() - started:.0f} s: {address} – `make stop` ends it, "
            "`make demo` brings it back."
        )

    def _drawn_study(self, folder: Path) -> Path:
        """Drawn whole or not at all; its null twins stand beside it."""
        if not folder.exists():
            self.stdout.write("Drawing the synthetic study …")
            subprocess.run(
                [sys.executable, "-m", "fixtures", "--size", "demo", "--seed", str(SEED), folder],
                cwd=settings.ROOT,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        return folder

    def _served(self, port: int) -> str:
        """The address; starts the supervisor where this installation has none running."""
        address_file = settings.VAR / "address"
        pages = settings.ROOT / "frontend" / "dist" / ".vite" / "manifest.json"
        if (
            address_file.exists()
            and address_file.stat().st_mtime > pages.stat().st_mtime  # it serves what was built
            and _answers(address_file.read_text())
        ):
            return address_file.read_text()
        port = _free_port_from(port)
        address = f"http://127.0.0.1:{port}/"
        subprocess.run([sys.executable, "-m", "backend.config.supervisor", "--stop"], check=True)
        # It outlives this command.
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "backend.config.supervisor", "--port", str(port)],
            cwd=settings.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while not _answers(address):
            if supervisor.poll() is not None or time.monotonic() > deadline:
                raise CommandError(f"The web server did not start; see {settings.VAR}/log.")
            time.sleep(0.3)
        address_file.write_text(address)
        return address

    def _imported(self, admin: User, folder: Path) -> Study:
        study = Study.objects.filter(slug=SLUG).first()
        if study is None:
            running = Job.objects.filter(kind="import", status__in=Job.ACTIVE).first()
            self._follow(running or start_import(user=admin, path=str(folder), form="study"))
            study = Study.objects.get(slug=SLUG)
        return study

    def _trained(self, admin: User, study: Study) -> ModelVersion:
        if not study.model_versions.exists():
            running = study.jobs.filter(kind="train", status__in=Job.ACTIVE).first()
            self._follow(running or start_training(user=admin, study=study, params={"seed": SEED}))
        return study.model_versions.get(status=ModelVersion.Status.PROMOTED)

    def _predicted(self, admin: User, study: Study, model: ModelVersion) -> None:
        """On every H&E slide that the model has neither predicted nor declined yet.

        The large sections come first: they are what a visitor opens, and the cores take longer.
        """
        for job in study.jobs.filter(kind="predict", status__in=Job.ACTIVE):
            self._follow(job)
        answered = Q(cell_tables__layers__model_artifact=model.artifact) | Q(
            declined__model_artifact=model.artifact
        )
        slides = study.slides.filter(stain=Slide.Stain.HE)
        left = slides.exclude(pk__in=slides.filter(answered).values("pk")).order_by("code")
        codes = list(left.values_list("code", flat=True))
        cores = [code for code in codes if code.endswith("-core")]
        for some in (sorted(set(codes) - set(cores)), cores):
            if some:
                params = {"model": model.pk, "slides": some}
                self._follow(start_prediction(user=admin, study=study, params=params))

    def _risk_fitted(self, admin: User, study: Study) -> None:
        """The study's question: do lymphocyte genes, seen on H&E alone, add to the clinic?"""
        if RiskModel.objects.filter(study=study).exists():
            return
        predicted = study.patient_tables.filter(source=PatientTable.Source.PREDICTED).first()
        params = {
            "endpoint": study.endpoints.first().code,
            "clinical": list(study.clinical_columns.values_list("name", flat=True)),
            "features": [{"table": predicted.pk, "name": gene} for gene in LYMPHOCYTE_GENES],
        }
        running = study.jobs.filter(kind="fit_survival", status__in=Job.ACTIVE).first()
        self._follow(running or start_fit(user=admin, study=study, params=params))

    def _follow(self, job: Job) -> None:
        """Shows a job's progress until it ends; a failure ends the command with the job's words."""
        shown = ""
        while True:
            close_old_connections()
            job.refresh_from_db()
            line = f"  {job.title}: {job.status}, {job.stage} {job.progress:.0%}"
            if line != shown:
                self.stdout.write(line)
                shown = line
            if job.status == Job.Status.SUCCEEDED:
                return
            if job.status not in Job.ACTIVE:
                raise CommandError(f"{job.title} {job.status}. {_reason(job)}")
            time.sleep(1)

    def _greet(self, address: str, seconds: float) -> None:
        self.stdout.write(
            f"\n  Open {address}  (served after {seconds:.0f} s)\n\n"
            "    member         demo-member         browses cohorts and slides\n"
            "    investigator   demo-investigator   reads survival\n"
            "    admin          demo-admin          imports, trains, promotes\n"
        )


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}accounts/login/", timeout=2).close()
        return True
    except (urllib.error.URLError, OSError):
        return False


def _free_port_from(port: int) -> int:
    """The port asked for, or the next one nobody listens on."""
    for candidate in range(port, port + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", candidate)):
                return candidate
    raise CommandError(f"Ports {port} to {port + 99} are taken; choose another with PORT=….")


def _reason(job: Job) -> str:
    failure = job.failure or {}
    return " ".join(
        filter(None, [failure.get("where"), failure.get("what"), failure.get("remedy")])
    )
