"""`past calibrate`: a model of a corpus is fitted what only whole slides and their tables tell.

Shards hold neither cell types nor whole slides. The slides' converted studies do; who is in which
part stays as it was in training.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ml.errors import InputError
from ml.inference.features import device
from ml.io.study.converted import converted_study
from ml.models import checkpoint
from ml.models.past import PAST
from ml.report import Report, plain
from ml.training.abilities import fit_abilities
from ml.training.corpus import Corpus
from ml.training.prepare import SectionInput, read_images, read_tables, sections_of

REPORT = "calibration.json"


def calibrate(folder: Path, studies: list[Path], work: Path, report: Report) -> dict[str, Any]:
    """Fit intervals, cell types and the refinement of a model that a corpus was trained on.

    Args:
        folder: the model's; it is written anew, with ``calibration.json``.
        studies: folders that `past convert` wrote, with slides of the corpus. Those that are not
            among its parts are left out.
        work: for image features.

    Returns:
        what `fit_abilities` does, with the slides of each part.

    Raises:
        InputError: ``calibrate.parts``, ``calibrate.no_slides``, ``calibrate.genes``, and those of
            model and studies.
    """
    model = checkpoint.load(folder, device())
    part_of = _parts(model, folder)
    given = [section for study in studies for section in _in_parts(study, part_of)]
    _check(given, part_of, studies)
    report.stage("Reading tables")
    tables = read_tables(given, panel=list(model.config.vocabulary.symbols))
    report.stage("Image features")
    sections = read_images(tables, model.config, work, report)
    of = {
        part: Corpus(some, model.config)
        for part in ("train", "validation", "test")
        if (some := [s for s in sections if s.part == part and s.totals.any()])
    }
    report.stage("Intervals and cell types")
    held_out = {part: corpus for part, corpus in of.items() if part != "train"}
    found = fit_abilities(model, of["train"], held_out, tables.sections, report)
    found["slides"] = {part: [s.slide_code for s in given if s.part == part] for part in of}
    _replace(folder, model, found)
    return found


def _parts(model: PAST, folder: Path) -> dict[str, str]:
    """STUDY/SLIDE → part, of the corpus that the model was trained on."""
    parts = model.config.provenance.get("parts")
    if not parts:
        raise InputError(
            "calibrate.parts",
            str(folder),
            "It does not say which slides of a corpus it was trained on and which were held out.",
            "Give a model that was trained on a corpus; one of a study is calibrated by training.",
        )
    return {name: part for part, names in parts.items() for name in names}


def _in_parts(study: Path, part_of: dict[str, str]) -> list[SectionInput]:
    """The slides of a study that are in one of the corpus' parts."""
    before = f"{converted_study(study)['study']['slug']}/"
    own = {name.removeprefix(before): part for name, part in part_of.items()
           if name.startswith(before)}  # fmt: skip
    return sections_of(study, own)


def _replace(folder: Path, model: PAST, found: dict[str, Any]) -> None:
    """The model's folder with what was fitted: the old one until the new one is complete."""
    part, old = (folder.with_name(f".{folder.name}.{name}") for name in ("part", "old"))
    for left in (part, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(folder, part)
    checkpoint.save(model, part)
    checkpoint.write_json(part / REPORT, plain(found))
    folder.replace(old)
    part.replace(folder)
    shutil.rmtree(old)


def _check(given: list[SectionInput], part_of: dict[str, str], studies: list[Path]) -> None:
    for part in ("train", "validation"):
        if not any(section.part == part for section in given):
            names = [name for name, of in part_of.items() if of == part]
            raise InputError(
                "calibrate.no_slides",
                ", ".join(map(str, studies)),
                f"Of the slides of the {part} part there is none.",
                f"Give the converted studies with {', '.join(names[:5])}."
                if names
                else f"Train the model with a {part} part: intervals and probabilities need one.",
            )
    codes = [section.slide_code for section in given]
    if twice := sorted({code for code in codes if codes.count(code) > 1}):
        raise InputError(
            "calibrate.no_slides",
            ", ".join(map(str, studies)),
            f"Several studies have a slide {twice[0]}.",
            "Give one of these studies.",
        )
