"""`manage.py create_demo_users [--study SLUG …]`: a member, an investigator and an admin."""

from __future__ import annotations

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from backend.accounts.permissions import Role
from backend.accounts.services import put_user
from backend.studies.models import Study
from backend.studies.services import set_role

FULL_NAMES = {
    Role.MEMBER: "Demo Member",
    Role.INVESTIGATOR: "Demo Investigator",
    Role.ADMIN: "Demo Admin",
}


class Command(BaseCommand):
    help = (
        "Create (or reset) the demo logins, whose passwords everybody knows, and give each its "
        "role in the named studies. The admin may also create studies and use the administration."
    )

    def add_arguments(self, parser):
        parser.add_argument("--study", action="append", default=[], metavar="SLUG")

    @transaction.atomic
    def handle(self, *, study: list[str], **options):
        if not settings.DEMO_USERS:
            raise CommandError("These settings allow no demo users: their passwords are public.")
        studies = list(Study.objects.filter(slug__in=study))
        if unknown := set(study) - {s.slug for s in studies}:
            raise CommandError(f"No study has the slug {', '.join(sorted(unknown))}.")
        users = {role: _demo_user(role) for role in Role}
        for role, user in users.items():
            for one in studies:
                set_role(actor=users[Role.ADMIN], study=one, user=user, role=role)
            self.stdout.write(f"{user.username:<14}password demo-{role}")


def _demo_user(role: Role):
    admin = role == Role.ADMIN
    return put_user(
        username=str(role),
        password=f"demo-{role}",
        full_name=FULL_NAMES[role],
        staff=admin,
        superuser=admin,
    )
