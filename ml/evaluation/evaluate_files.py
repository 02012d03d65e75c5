"""Which slides of converted studies play which part for a model that is evaluated."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml.errors import InputError
from ml.io.study.converted import converted_study
from ml.models.checkpoint import CONFIG
from ml.training.prepare import SectionInput, sections_of


def sections_for(model: Path, studies: list[Path]) -> list[dict[str, Any]]:
    """Measured slides with their parts: those of the model's own training, the others external.

    Slides of a training are known by their contents, so that a slide that has changed is not taken
    for the one that was trained on. External patients get the study's name in front.

    Raises:
        InputError: ``evaluate.no_parts``, ``evaluate.changed``, ``evaluate.seen``, those of the
            study.
    """
    known = _known(model)
    by_content = {(s["slide_sha256"], s["table_sha256"]): s for s in known}
    slides = {s["slide_sha256"]: s["slide_code"] for s in known}
    patients = {s["patient"] for s in known}
    found: list[dict[str, Any]] = []
    here: set[tuple[str, str]] = set()
    for study in studies:
        document = converted_study(study)
        given = sections_of(study, {s["code"]: "external" for s in document["slides"]})
        own = [(g.slide_sha256, g.table_sha256) in by_content for g in given]
        for section, is_own in zip(given, own, strict=True):
            content = (section.slide_sha256, section.table_sha256)
            if is_own and content not in here:
                here.add(content)
                found.append(_as_json(section, part=by_content[content]["part"]))
            elif not is_own:
                _check_unseen(section, slides, patients if any(own) else set())
                name = "" if any(own) else f"{document['study']['slug']}/"
                found.append(_as_json(section, patient=name + section.patient))
    _check_complete(known, by_content.keys() - here, studies)
    return found


def sites_of(studies: list[Path]) -> dict[str, str]:
    """Site of each patient that has one."""
    return {
        patient["code"]: patient["site"]
        for study in studies
        for patient in converted_study(study)["patients"]
        if patient.get("site")
    }


def _known(model: Path) -> list[dict[str, Any]]:
    try:
        config = json.loads((model / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            "evaluate.no_model", str(model), "It holds no model that can be read.",
            "Give the model/ folder of a training.",
        ) from error  # fmt: skip
    sections = config.get("provenance", {}).get("sections", [])
    if not sections:
        raise InputError(
            "evaluate.no_parts",
            str(model),
            "It does not say which slides it was trained on.",
            "Evaluate a model that was trained on a study; one of a corpus says how it did on its "
            "own held-out cells in metrics.json.",
        )
    return list(sections)


def _check_unseen(section: SectionInput, slides: dict[str, str], patients: set[str]) -> None:
    """Refuses what the training saw otherwise: the slide with another table, or the patient."""
    if section.slide_sha256 in slides:
        raise InputError(
            "evaluate.changed",
            f"slide {section.slide_code}",
            f"The model was trained with this slide ({slides[section.slide_sha256]}), but with "
            "another table.",
            "Give the study as it was when the model was trained.",
        )
    if section.patient in patients:
        raise InputError(
            "evaluate.seen",
            f"slide {section.slide_code}",
            f"Other slides of its patient {section.patient} were in the training.",
            "Leave the slide out of the study.",
        )


def _check_complete(known: list[dict[str, Any]], missing: Any, studies: list[Path]) -> None:
    lost = [s["slide_code"] for s in known if (s["slide_sha256"], s["table_sha256"]) in missing]
    if lost:
        raise InputError(
            "evaluate.changed",
            ", ".join(map(str, studies)),
            f"{', '.join(lost[:5])} of the model's training {'is' if len(lost) == 1 else 'are'} "
            "not in it, or not as it was then.",
            "Give the study that the model was trained on, as it was then.",
        )


def _as_json(section: SectionInput, **other: str) -> dict[str, Any]:
    values = asdict(section) | other
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
