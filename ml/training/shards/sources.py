"""The slides of converted studies, as a corpus takes them in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ml.errors import InputError
from ml.io.study.converted import converted_study
from ml.report import Report
from ml.tokens.build import from_tables
from ml.tokens.files import VocabularyFile
from ml.tokens.vocabulary import Vocabulary

# What a corpus calls the technology of slides that do not state theirs.
UNSTATED = "unstated"


@dataclass(frozen=True)
class Source:
    """One slide with measured cells: where its files lie and whose it is.

    Attributes:
        mpp: µm per level-0 pixel.
        technology: as the study or the caller states it; empty where nobody does.
    """

    study: str
    slide: str
    patient: str
    site: str
    technology: str
    mpp: float
    table: Path
    image: Path

    @property
    def where(self) -> str:
        return f"study {self.study}, slide {self.slide}"


def read_sources(folder: Path, technology: str = "") -> list[Source]:
    """The measured slides of a study that `past convert` wrote, in its order.

    Args:
        folder: holds ``result.json``.
        technology: for slides that do not state theirs.

    Raises:
        InputError: ``study.not_converted``, ``slide.no_mpp`` or ``corpus.nothing_measured``.
    """
    found = converted_study(folder)
    study = found["study"]["slug"]
    sites = {patient["code"]: patient.get("site") or "" for patient in found["patients"]}
    sources = []
    for slide in found["slides"]:
        cells = slide["cells"]
        if not cells or not cells["n_genes"]:
            continue
        mpp = slide.get("mpp") or slide["info"].get("mpp")
        if not mpp:
            raise InputError(
                "slide.no_mpp",
                f"study {study}, slide {slide['code']}",
                "The slide does not say its resolution.",
                "Give mpp for it in slides.csv and convert the study again.",
            )
        sources.append(
            Source(
                study=study,
                slide=slide["code"],
                patient=slide["patient"],
                site=sites.get(slide["patient"], ""),
                technology=cells.get("technology") or slide.get("technology") or technology,
                mpp=float(mpp),
                table=folder / cells["path"],
                image=folder / slide["file"],
            )
        )
    if not sources:
        raise InputError(
            "corpus.nothing_measured",
            str(folder),
            "No slide of this study has cells or spots with counts.",
            "Name studies with measured slides.",
        )
    return sources


def fitted_vocabulary(sources: list[Source], report: Report) -> VocabularyFile:
    """All genes of these slides, with their non-zero means over them in each technology.

    Its provenance names the slides, so that who is held out later can be told from who was not.
    """
    found = from_tables([(s.technology or UNSTATED, s.table) for s in sources], report)
    tables = [
        {**made_from, "study": s.study, "slide": s.slide, "patient": s.patient}
        for made_from, s in zip(found.provenance["tables"], sources, strict=True)
    ]
    return replace(found, provenance={"tables": tables})


def vocabulary_of(vocabulary: VocabularyFile, source: Source) -> Vocabulary:
    """The vocabulary with the means of a slide's technology.

    Raises:
        InputError: ``corpus.no_technology`` or ``corpus.unknown_technology``.
    """
    name = source.technology or UNSTATED
    if name in vocabulary.means:
        return vocabulary.technology(name)
    known = ", ".join(vocabulary.means)
    if not source.technology:
        raise InputError(
            "corpus.no_technology",
            source.where,
            f"The slide does not say its technology; the vocabulary has the means of {known}.",
            f"Name it, for example: --technology {next(iter(vocabulary.means))}.",
        )
    raise InputError(
        "corpus.unknown_technology",
        source.where,
        f"Its technology is {name}; the vocabulary has the non-zero means of {known}.",
        f"Correct the name, or make a vocabulary with {name} too: past vocab build OUT "
        f"{name}=TABLE ….",
    )


def chosen_sources(
    sources: list[Source], patients: list[str] | None, slides: list[str] | None
) -> list[Source]:
    """The sources of these patients and these slides; all of them where neither is given.

    Raises:
        InputError: ``study.unknown_slide`` or ``study.unknown_patient``.
    """
    for asked, has, what in (
        (slides, [s.slide for s in sources], "slide"),
        (patients, [s.patient for s in sources], "patient"),
    ):
        unknown = sorted(set(asked or ()) - set(has))
        if unknown:
            raise InputError(
                f"study.unknown_{what}",
                f"{what}s",
                f"There is no such measured {what}: {', '.join(unknown)}.",
                f"There are: {', '.join(dict.fromkeys(has))}.",
            )
    if patients is None and slides is None:
        return sources
    return [s for s in sources if s.patient in (patients or ()) or s.slide in (slides or ())]
