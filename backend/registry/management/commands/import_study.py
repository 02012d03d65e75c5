"""`manage.py import_study PATH [--format study|her2st|kirc]`."""

from __future__ import annotations

from backend.registry.management.importing import ImportCommand


class Command(ImportCommand):
    help = "Import a study folder from this machine: the same job that the import page starts."

    def add_arguments(self, parser):
        super().add_arguments(parser)
        parser.add_argument("--format", default="auto", choices=["auto", "study", "her2st", "kirc"])

    def handle(self, *, path, format, user, **options):
        self.run_import(path=path, form=format, user=user)
