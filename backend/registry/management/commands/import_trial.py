"""`manage.py import_trial her2st|kirc PATH`: a public data set as a study."""

from __future__ import annotations

from backend.registry.management.importing import ImportCommand


class Command(ImportCommand):
    help = "Import a public data set, as its owners publish it: her2st, or the TCGA KIRC table."

    def add_arguments(self, parser):
        parser.add_argument("trial", choices=["her2st", "kirc"])
        super().add_arguments(parser)

    def handle(self, *, trial, path, user, **options):
        self.run_import(path=path, form=trial, user=user)
