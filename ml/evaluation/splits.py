"""Parts of a data set, and the audit that they do not leak into each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ml.errors import InputError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Unit:
    """A section as the audit sees it."""

    code: str
    patient: str
    part: str
    content: str


def audit(units: Iterable[Unit]) -> str:
    """Check that what is held out is held out, and say what that is.

    Returns:
        ``held-out patients``, or ``held-out section of the same patient`` where all sections are
        of one patient, so that only sections can be held out.

    Raises:
        InputError: ``split.part``, ``split.no_training``, ``split.same_slide`` or
            ``split.patient_in_two_parts``.
    """
    listed = list(units)
    for unit in listed:
        if unit.part not in PARTS:
            raise InputError(
                "split.part",
                f"slide {unit.code}",
                f"Its part is {unit.part!r}.",
                f"Give one of {', '.join(PARTS)}.",
            )
    if not any(unit.part == "train" for unit in listed):
        raise InputError(
            "split.no_training",
            "sections",
            "No section is in the training part.",
            "Put at least one measured slide into it.",
        )
    by_content, by_patient = defaultdict(set), defaultdict(set)
    for unit in listed:
        by_content[unit.content].add(unit.part)
        by_patient[unit.patient].add(unit.part)
    for unit in listed:
        if len(by_content[unit.content]) > 1:
            raise InputError(
                "split.same_slide",
                f"slide {unit.code}",
                "The same slide file is in two parts.",
                "Leave one of them out.",
            )
    same_patient = len(by_patient) == 1
    for patient, parts in by_patient.items():
        if len(parts) > 1 and not same_patient:
            raise InputError(
                "split.patient_in_two_parts",
                f"patient {patient}",
                f"Sections of this patient are in the parts {', '.join(sorted(parts))}.",
                "Put all sections of a patient into one part.",
            )
    return "held-out section of the same patient" if same_patient else "held-out patients"
