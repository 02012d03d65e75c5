"""Which measured slides train, validate and test a model.

Whoever starts a training may choose; else the study's own plan holds, where it has one for every
measured patient; else the split is drawn.

The patient is the unit: two slides of one patient are never in different parts, because a model
that has seen a patient's tissue is not tested by more of it. A study with one measured patient has
only sections to hold out; its split says so.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from backend.registry.models import Dataset, Part
from ml.errors import InputError

_SHARE = 0.2  # of the rows that the test leaves, at most so many validate


@dataclass(frozen=True)
class Section:
    """A measured slide: its code, its patient's code, the rows of its cell table, and the part
    planned for its patient ("" for none)."""

    slide: str
    patient: str
    n_rows: int
    planned: str = ""


@dataclass(frozen=True)
class Split:
    """`parts` by slide code; `by` says who decided: a chosen part makes the split a chosen one."""

    parts: dict[str, Part]
    same_patient: bool
    by: Dataset.Split


def split_sections(
    sections: list[Section],
    *,
    validation: list[str] | None = None,
    test: list[str] | None = None,
    seed: int = 0,
) -> Split:
    """The part of each slide.

    Args:
        sections: the measured slides.
        validation, test: slide codes chosen for these parts; an empty list leaves the part empty.
            None takes the planned patients, if every patient has a planned part and some train
            and some test; else it draws: one large patient (the one with most rows) tests, and of
            the others some with a fifth of the rows together, drawn by `seed`, validate.

    Raises:
        InputError: too few slides, an unknown slide, a slide or patient in two parts, or nothing
            left to train on.
    """
    if len(sections) < 2:
        raise InputError(
            "split.too_few_slides",
            "training",
            f"The study has {len(sections)} measured slides of this kind.",
            "Import at least two slides with measured expression: one trains, one tests.",
        )
    same_patient = len({section.patient for section in sections}) == 1
    units = {s.slide: s.slide if same_patient else s.patient for s in sections}
    rows: dict[str, int] = defaultdict(int)
    for section in sections:
        rows[units[section.slide]] += section.n_rows

    chosen: dict[str, Part] = {}
    for part, codes in ((Part.TEST, test), (Part.VALIDATION, validation)):
        _assign(chosen, part, codes or [], units)
    _refuse_divided_patients(chosen, units)
    unit_parts = {units[code]: part for code, part in chosen.items()}
    planned = _planned(sections)
    open_parts = [p for p, codes in ((Part.TEST, test), (Part.VALIDATION, validation))
                  if codes is None]  # fmt: skip
    for part in open_parts:
        found = _units_for(part, _left(rows, unit_parts), planned, seed)
        unit_parts |= dict.fromkeys(found, part)
    if not _left(rows, unit_parts):
        raise InputError(
            "split.nothing_to_train_on",
            "validation and test slides",
            "Every measured slide validates or tests.",
            "Leave at least one patient's slides for training.",
        )
    parts = {slide: unit_parts.get(unit, Part.TRAIN) for slide, unit in units.items()}
    if len(open_parts) < 2:
        by = Dataset.Split.CHOSEN
    else:
        by = Dataset.Split.PLANNED if planned else Dataset.Split.DRAWN
    return Split(parts, same_patient, by)


def _planned(sections: list[Section]) -> dict[str, str]:
    """The planned part of each patient; empty unless all have one and some train and some test."""
    parts = {section.patient: section.planned for section in sections}
    whole = all(parts.values()) and {Part.TRAIN, Part.TEST} <= set(parts.values())
    return parts if whole else {}


def _assign(
    chosen: dict[str, Part], part: Part, codes: Iterable[str], units: dict[str, str]
) -> None:
    for code in codes:
        if code not in units:
            raise InputError(
                "split.unknown_slide",
                f"{part} slide {code!r}",
                "The study has no measured slide of this code and kind.",
                "Choose among the measured slides that the training page lists.",
            )
        if chosen.setdefault(code, part) != part:
            raise InputError(
                "split.slide_in_two_parts",
                f"slide {code!r}",
                "The slide was chosen for validation and for test.",
                "Choose it for one of them.",
            )


def _refuse_divided_patients(chosen: dict[str, Part], units: dict[str, str]) -> None:
    parts: dict[str, set[Part | None]] = defaultdict(set)
    for slide, unit in units.items():
        parts[unit].add(chosen.get(slide))
    for unit, found in sorted(parts.items()):
        if len(found) > 1:
            raise InputError(
                "split.patient_in_two_parts",
                f"patient {unit!r}",
                "Some of the patient's slides were chosen for a part and others were not.",
                "Put all slides of a patient into the same part.",
            )


def _left(rows: dict[str, int], parts: dict[str, Part]) -> dict[str, int]:
    return {unit: n for unit, n in rows.items() if unit not in parts}


def _units_for(part: Part, left: dict[str, int], planned: dict[str, str], seed: int) -> list[str]:
    """The units, of those left, that play a part which nobody chose slides for."""
    of_plan = [unit for unit in left if planned.get(unit) == part]
    # A plan without validation is one. But where all planned test slides were chosen to validate,
    # a model without any test is not what was asked for.
    if of_plan or (planned and part == Part.VALIDATION):
        return of_plan
    return _testing(left, seed) if part == Part.TEST else _validating(left, seed)


def _testing(left: dict[str, int], seed: int) -> list[str]:
    """The unit with most rows, unless nothing would be left to train on."""
    return [min(left, key=lambda u: (-left[u], _draw(seed, u)))] if len(left) > 1 else []


def _validating(left: dict[str, int], seed: int) -> list[str]:
    """Units in the seed's order while they fit into the share; at least the smallest one."""
    if len(left) < 2:
        return []
    quota = _SHARE * sum(left.values())
    taken = []
    for unit in sorted(left, key=lambda u: _draw(seed, u)):
        if left[unit] <= quota:
            quota -= left[unit]
            taken.append(unit)
    return taken or [min(left, key=lambda u: (left[u], _draw(seed, u)))]


def _draw(seed: int, unit: str) -> str:
    """A number per unit that does not depend on which other units there are."""
    return hashlib.sha256(f"{seed}:{unit}".encode()).hexdigest()
