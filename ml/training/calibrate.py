"""`past calibrate`: a model of a corpus is fitted what only whole slides and their tables tell.

Shards hold neither cell types nor whole slides. The slides' converted studies do; who is in which
part stays as it was in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml.errors import InputError
from ml.inference.features import device
from ml.io.store import content_hash
from ml.io.study.converted import converted_study, mpp_of
from ml.models import checkpoint
from ml.models.past import PAST
from ml.report import Report, plain
from ml.training.abilities import fit_abilities
from ml.training.corpus import Corpus
from ml.training.prepare import SectionInput, read_images, read_tables

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
    given = [section for study in studies for section in _sections(study, part_of)]
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
    checkpoint.save(model, folder)
    checkpoint.write_json(folder / REPORT, plain(found))
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


def _sections(study: Path, part_of: dict[str, str]) -> list[SectionInput]:
    """The slides of a study that are in one of the parts."""
    found = converted_study(study)
    slug = found["study"]["slug"]
    sections = []
    for slide in found["slides"]:
        part = part_of.get(f"{slug}/{slide['code']}")
        if part is None or not slide["cells"]:
            continue
        image, table = study / slide["file"], study / slide["cells"]["path"]
        sections.append(
            SectionInput(
                slide=image, table=table, slide_code=slide["code"], patient=slide["patient"],
                part=part, mpp=mpp_of(slide), slide_sha256=content_hash(image)[0],
                table_sha256=content_hash(table)[0],
            )
        )  # fmt: skip
    return sections


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
