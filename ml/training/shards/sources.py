"""The slides of converted studies, as a corpus takes them in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, vstack

from ml.errors import InputError
from ml.io.celltable import CellTable
from ml.tokens.vocabulary import Vocabulary


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
    listing = folder / "result.json"
    try:
        found = json.loads(listing.read_text(encoding="utf-8"))
        study = found["study"]["slug"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            "study.not_converted",
            str(folder),
            "It holds no result.json that can be read.",
            "Convert the study first: past convert PATH FOLDER.",
        ) from error
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


def fitted_vocabulary(sources: list[Source]) -> Vocabulary:
    """All genes of these slides in order of appearance, with their non-zero means."""
    symbols: dict[str, int] = {}
    for source in sources:
        for symbol in CellTable.open(source.table).symbols:
            symbols.setdefault(symbol, len(symbols))
    tables = [_widened(CellTable.open(source.table), symbols) for source in sources]
    return Vocabulary.fit(csr_matrix(vstack(tables)), list(symbols))


def _widened(table: CellTable, symbols: dict[str, int]) -> csr_matrix:
    """Counts of a table with its genes in the columns that `symbols` gives them."""
    counts = table.counts()
    columns = np.array([symbols[symbol] for symbol in table.symbols], np.int32)
    return csr_matrix(
        (counts.data, columns[counts.indices], counts.indptr), (table.n_rows, len(symbols))
    )
