"""What a trained model can say beside expression: intervals, cell types, and in which ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ml.models.past import PAST
from ml.tasks.cell_types import fit_types, read_labels
from ml.training.compare import compare_ways
from ml.training.corpus import Corpus
from ml.training.intervals import fit_intervals
from ml.training.prepare import Measured
from ml.training.refine import fit_refinement

if TYPE_CHECKING:
    from ml.report import Report


def fit_abilities(
    model: PAST,
    train: Corpus,
    held_out: dict[str, Corpus],
    sections: Iterable[Measured],
    report: Report,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit intervals, the probe of cell types and, on crops, the refinement, and compare the ways.

    Args:
        model: in eval mode.
        held_out: corpora by part.
        sections: those of all parts, which the corpora are of.

    Returns:
        ``intervals`` (see `fit_intervals`), ``cell_types`` (see `fit_types`), ``ways`` (see
        `compare_ways`), each where it can be had.
    """
    sections = list(sections)
    slides = {
        part: [s.slide() for s in sections if s.given.part == part]
        for part in ("train", "validation")
    }
    labels = read_labels(section.given for section in sections)
    found: dict[str, Any] = {"intervals": fit_intervals(model, held_out)}
    found["cell_types"] = fit_types(model, train, held_out, labels, report, seed=seed)
    if model.config.features is None:
        report.stage("Refinement of the shared forward")
        fit_refinement(model, slides["train"], seed)
    if "validation" in held_out:
        report.stage("The two ways of inference")
        found["ways"] = compare_ways(model, held_out["validation"], slides["validation"])
    return {name: value for name, value in found.items() if value is not None}
