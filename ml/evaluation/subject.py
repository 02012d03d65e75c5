"""What is evaluated: a model with the sections it was trained on and those that are held out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml.inference.crops import by_place, crop, crop_sides
from ml.models.past import PAST
from ml.tasks.cell_types import Labels
from ml.training.corpus import Corpus, Rows

if TYPE_CHECKING:
    from ml.inference.ways import Slide
    from ml.training.prepare import Measured

Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Predictor:
    """Something that predicts expression, fitted to the training part.

    Attributes:
        name: key in the report.
        title: what people read.
        predict: measured rows of a corpus → (rows, genes) log1p counts per 10,000.
        fair: whether it sees what the model sees; an oracle that reads measured neighbours is shown
            apart and compared with nobody.
        facts: settings that were chosen, and limits that it ran under.
    """

    name: str
    title: str
    predict: Callable[[Corpus], Floats32]
    fair: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """A model and its data.

    Attributes:
        model: in eval mode.
        train: the training part.
        held_out: corpora by part.
        measured: sections of all parts by slide code, with their slides.
        labels: cell types by slide code, see `ml.tasks.cell_types.read_labels`.
        sites: site of each patient that has one.
        work: folder for what can be computed again.
        seed: of all draws.
        kept: what is computed once for a corpus, by its identity.
    """

    model: PAST
    train: Corpus
    held_out: dict[str, Corpus]
    measured: dict[str, Measured]
    labels: Labels
    work: Path
    sites: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    kept: dict[int, Floats32] = field(default_factory=dict)

    @cached_property
    def slides(self) -> dict[str, Slide]:
        """Open slides by code."""
        return {code: section.slide() for code, section in self.measured.items()}

    def crops(self, corpus: Corpus, rows: Rows, sides: float, pixels: int) -> NDArray[np.uint8]:
        """Squares around rows: (rows, pixels, pixels, 3).

        Args:
            sides: side of a square in units of the row's own: a cell's 28 µm, a spot's diameter.
        """
        own = self.model.config.row_kind, self.model.config.spot_diameter_um
        side_um = sides * crop_sides(*own)[1]
        found = np.empty((len(rows), pixels, pixels, 3), np.uint8)
        section = corpus.section[rows]
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            for number in np.unique(section).tolist():
                slide = self.slides[corpus.sections[number].code]
                here = np.flatnonzero(section == number)
                xy = slide.xy[rows[here] - corpus.offsets[number]]
                here, xy = here[by_place(xy)], xy[by_place(xy)]

                def fill(
                    place: int, slide: Slide = slide, here: Rows = here, xy: Floats32 = xy
                ) -> None:
                    x, y = (float(v) for v in xy[place])
                    found[here[place]] = crop(slide.reader, x, y, side_um, slide.mpp, pixels)

                for _ in threads.map(fill, range(len(here))):
                    pass
        return found

    def crop_batches(
        self, corpus: Corpus, rows: Rows, sides: float, pixels: int, size: int = 256
    ) -> Iterator[tuple[Rows, NDArray[np.uint8]]]:
        """`crops` of some rows in batches, with the rows that they are of."""
        for at in range(0, len(rows), size):
            some = rows[at : at + size]
            yield some, self.crops(corpus, some, sides, pixels)


def drawn(rows: Rows, most: int, seed: int) -> Rows:
    """At most `most` of some rows, drawn by a seed and kept in order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
