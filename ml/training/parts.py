"""Which slides of a corpus are trained on and which are held out: patients, whole, never in two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from ml.errors import InputError
from ml.evaluation.audit import HELD_OUT_PATIENTS, Unit, audit
from ml.evaluation.look_alikes import ALIKE, ALIKE_OF_ONE_PATIENT
from ml.training.config_file import DataSection
from ml.training.shards.layout import Manifest, SlideRecord


@dataclass(frozen=True)
class Parts:
    """Slides of each part, by their number in the manifest.

    Attributes:
        train, validation, test: numbers of slides.
        scope: what is held out, as `ml.evaluation.audit.audit` says it.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    scope: str

    @property
    def held_out(self) -> dict[str, tuple[int, ...]]:
        """The parts that are not trained on and have slides."""
        both = {"validation": self.validation, "test": self.test}
        return {part: slides for part, slides in both.items() if slides}

    def part_slides(self) -> dict[str, tuple[int, ...]]:
        """Part → slides, of those that there are."""
        return {"train": self.train, **self.held_out}

    def part_of(self) -> dict[int, str]:
        """Slide → part."""
        return {slide: part for part, slides in self.part_slides().items() for slide in slides}


def patient_of(slide: SlideRecord) -> str:
    """A patient's name in a corpus of several studies."""
    return f"{slide.study}/{slide.patient}"


def parts_of(manifest: Manifest, data: DataSection, where: str) -> Parts:
    """The parts that a config asks for.

    Args:
        where: the corpus, for messages.

    Raises:
        InputError: ``split.unknown_patient``, ``split.ambiguous_patient``, ``split.too_few``,
            those of `audit`, `check_vocabulary` and `check_pictures`.
    """
    patients = manifest.ids()["patient"]
    part_of: dict[str, str] = {}
    for part in ("validation", "test"):
        for name in getattr(data, part):
            for patient in _named(name, patients, f"{where}, {part}"):
                if part_of.setdefault(patient, part) != part:
                    raise InputError(
                        "split.patient_in_two_parts",
                        f"patient {patient}",
                        "The patient is named for validation and for test.",
                        "Leave the patient in one of them.",
                    )
    _draw(patients, part_of, data)
    slides: dict[str, list[int]] = defaultdict(list)
    for number, slide in enumerate(manifest.slides):
        slides[part_of.get(patient_of(slide), "train")].append(number)
    scope = audit(
        Unit(s.slide, patient_of(s), part, s.slide_sha256 or s.table_sha256)
        for part, numbers in slides.items()
        for s in (manifest.slides[n] for n in numbers)
    )
    train, validation, test = (tuple(slides[p]) for p in ("train", "validation", "test"))
    parts = Parts(train, validation, test, scope)
    check_vocabulary(manifest, parts, where)
    check_pictures(manifest, parts, where)
    return parts


def _named(name: str, patients: list[str], where: str) -> Iterable[str]:
    """The patient of that name, with or without the study."""
    found = [p for p in patients if name in (p, p.partition("/")[2])]
    if len(found) > 1:
        raise InputError(
            "split.ambiguous_patient",
            where,
            f"{name} is a patient of several studies.",
            f"Name one of: {', '.join(found)}.",
        )
    if not found:
        short = {p.partition("/")[2]: p for p in patients}
        near = get_close_matches(name, [*short, *patients], 3) or patients[:3]
        raise InputError(
            "split.unknown_patient",
            where,
            f"The corpus has no patient {name}.",
            f"Patients are, for example: {', '.join(near)}.",
        )
    return found


def _draw(patients: list[str], part_of: dict[str, str], data: DataSection) -> None:
    """Draw the shares that are asked for from the patients that are not named."""
    free = sorted(set(patients) - set(part_of))
    order = [free[i] for i in np.random.default_rng(data.split_seed).permutation(len(free))]
    for part, share in (("validation", data.validation_share), ("test", data.test_share)):
        count = max(1, round(share * len(patients))) if share else 0
        for patient in order[:count]:
            part_of[patient] = part
        order = order[count:]
    if not order and (data.validation_share or data.test_share):
        raise InputError(
            "split.too_few",
            "data.validation_share, data.test_share",
            f"{len(patients)} patients leave none to train on.",
            "Hold out smaller shares, or add patients.",
        )


def check_pictures(manifest: Manifest, parts: Parts, where: str) -> None:
    """Refuse parts that show the same tissue, as the corpus was told when it was built.

    Raises:
        InputError: ``split.look_alike``.
    """
    part_of = parts.part_of()
    limit = ALIKE if parts.scope == HELD_OUT_PATIENTS else ALIKE_OF_ONE_PATIENT
    for first, second, value in manifest.alike:
        if value >= limit and part_of[first] != part_of[second]:
            names = [f"{s.study}/{s.slide}" for s in (manifest.slides[n] for n in (first, second))]
            raise InputError(
                "split.look_alike",
                f"{where}, slides {names[0]} and {names[1]}",
                f"They show the same tissue (similarity {value:.2f}, limit {limit}), one in the "
                f"{part_of[first]} part and one in the {part_of[second]} part.",
                "Name their patients for one part, or build the corpus without one of them.",
            )


def check_vocabulary(manifest: Manifest, parts: Parts, where: str) -> None:
    """Refuse a vocabulary whose means were fitted to somebody who is held out.

    Raises:
        InputError: ``split.vocabulary_leak``.
    """
    tables: list[dict[str, Any]] = manifest.vocabulary_from.get("tables", [])
    hashes = {table.get("sha256") for table in tables}
    slides = manifest.slides
    fitted = {f"{t['study']}/{t['patient']}" for t in tables if "patient" in t}
    fitted |= {patient_of(s) for s in slides if s.table_sha256 and s.table_sha256 in hashes}
    for part, numbers in parts.held_out.items():
        leaked = sorted({patient_of(slides[n]) for n in numbers} & fitted)
        # Where all slides are of one patient only slides can be held out, and they are what counts.
        if parts.scope != "held-out patients":
            leaked = [slides[n].slide for n in numbers if slides[n].table_sha256 in hashes]
        if leaked:
            training = sorted({slides[n].patient for n in parts.train})
            raise InputError(
                "split.vocabulary_leak",
                where,
                f"The means of its vocabulary were fitted to {', '.join(leaked[:5])} too, who "
                f"{'is' if len(leaked) == 1 else 'are'} in the {part} part.",
                "Build the corpus again with --fit-on-patients and the training patients "
                f"({', '.join(training[:8])}{', …' if len(training) > 8 else ''}), or with a "
                "--vocabulary of other data.",
            )
