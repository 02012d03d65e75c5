"""What the import commands share: start the job, follow it to its end, and say how it went."""

from __future__ import annotations

import threading
import time
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from django.db.models.functions import Now

from backend.accounts.models import User
from backend.jobs.models import Job
from backend.jobs.services import cancel_job
from backend.registry.services import start_import

# A worker takes a waiting job within a fraction of a second, unless it works on another one.
PATIENCE_S = 3.0
POLL_S = 0.3


class ImportCommand(BaseCommand):
    """Imports a folder as a job, and waits. Where no worker runs, the job runs right here."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("path", type=Path)
        parser.add_argument(
            "--user", help="who becomes the study's admin; default: the first superuser"
        )

    def run_import(self, *, path: Path, form: str, user: str | None) -> None:
        job = start_import(user=_importer(user), path=str(path.resolve()), form=form)
        self.stdout.write(f"job {job.pk}: {job.title}")
        try:
            job = self._follow(job)
        except KeyboardInterrupt:
            cancel_job(user=job.created_by, job=job)
            raise CommandError("The import was cancelled.") from None
        if job.status != Job.Status.SUCCEEDED:
            failure = job.failure
            raise CommandError(
                "{where}: {what} {remedy}".format(**failure)
                if failure
                else f"The import was {job.status}."
            )
        result = job.result
        self.stdout.write(
            self.style.SUCCESS(
                f"study {result['study']}: {result['patients']} patients, "
                f"{result['slides']} slides, {result['cell_tables']} cell tables"
            )
        )

    def _follow(self, job: Job) -> Job:
        seen = 0
        patience = time.monotonic() + PATIENCE_S
        here: threading.Thread | None = None
        while True:
            for event in job.events.filter(seq__gt=seen).order_by("seq"):
                seen = event.seq
                self._say(event.kind, event.data)
            job.refresh_from_db()
            if job.status not in Job.ACTIVE:
                if here:
                    here.join()
                return job
            waits = job.status == Job.Status.QUEUED and time.monotonic() > patience
            if here is None and waits and not _somebody_works():
                self.stdout.write("no worker runs: working here")
                here = threading.Thread(target=_work, args=(job.pk,), daemon=True)
                here.start()
            time.sleep(POLL_S)

    def _say(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "status":
            self.stdout.write(str(data["status"]))
        elif kind == "stage":
            self.stdout.write(f"  {data.get('name', '')}")
        elif kind == "progress":
            self.stdout.write(f"  {float(data.get('progress', 0)):.0%}")
        elif kind == "log":
            self.stdout.write(f"  {data.get('text', '')}")


def _somebody_works() -> bool:
    running = (Job.Status.RUNNING, Job.Status.CANCELLING)
    beat = Now() - timedelta(seconds=PATIENCE_S)
    return Job.objects.filter(status__in=running, heartbeat_at__gt=beat).exists()


def _work(job_id: int) -> None:
    from backend.jobs.runner import run_attempt

    try:
        run_attempt(job_id)
    finally:
        connections.close_all()


def _importer(username: str | None) -> User:
    if username is None:
        user = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
        if user is None:
            raise CommandError("There is no superuser yet: run manage.py createsuperuser first.")
        return user
    user = User.objects.filter(username=username, is_active=True).first()
    if user is None or not user.is_staff:
        raise CommandError(f"{username} is no member of staff here, and only staff may import.")
    return user
