"""What a report says beside expression: chapters, each a function that others may add to.

A chapter gets the subject and the name of a part and returns what it found, as JSON; None where
there is nothing to tell. Virtual IHC and survival register theirs here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ml.evaluation.appearance import appearance
from ml.evaluation.classification import scores
from ml.evaluation.retrieval import candidate_sets, image_embeddings, retrieval
from ml.evaluation.subject import Subject, drawn
from ml.models.types import TypeProbe, choose_penalty, fitted_temperature
from ml.tasks.cell_types import Labelled, embeddings, labelled
from ml.training.intervals import coverage, error_by_distance

if TYPE_CHECKING:
    from ml.report import Report

Tell = Callable[[Subject, str, "Report"], dict[str, Any] | None]
# Cells that are clustered, and that the probe on appearance is fitted to, at most.
CLUSTERED, FITTED = 20_000, 12_000


@dataclass(frozen=True)
class Chapter:
    """A chapter of the report.

    Attributes:
        name: its key.
        title: what is shown while it is written.
        tell: writes it.
    """

    name: str
    title: str
    tell: Tell


_CHAPTERS: dict[str, Chapter] = {}


def chapter(name: str, title: str) -> Callable[[Tell], Tell]:
    """Registers a chapter; a name is taken once."""

    def add(tell: Tell) -> Tell:
        if name in _CHAPTERS:
            raise ValueError(f"the chapter {name!r} is registered twice")
        _CHAPTERS[name] = Chapter(name, title, tell)
        return tell

    return add


def chapters() -> list[Chapter]:
    """All chapters in the order they were registered, those of this package first."""
    from ml.evaluation import probes, robustness  # noqa: F401  they register theirs

    return list(_CHAPTERS.values())


@chapter("uncertainty", "Intervals and flagged cells")
def uncertainty(subject: Subject, part: str, report: Report) -> dict[str, Any] | None:
    """Whether the intervals cover what they say, and whether errors fall without flagged rows.

    Returns:
        coverage (see `ml.training.intervals.coverage`) with the level, and errors (see
        `error_by_distance`), each where the model has what it takes.
    """
    model, corpus = subject.model, subject.held_out[part]
    found: dict[str, Any] = {}
    if model.intervals is not None:
        told = coverage(model.intervals, corpus.all_expression(), corpus.predict(model), corpus)
        found["coverage"] = {"level": float(model.intervals.level), **told}
        if part == "validation":
            found["coverage"]["note"] = "The intervals were fitted to this part."
    errors = error_by_distance(model, corpus)
    if errors is not None:
        found["errors"] = errors
    return found or None


@chapter("retrieval", "Retrieval between image and expression")
def both_ways(subject: Subject, part: str, report: Report) -> dict[str, Any] | None:
    """Recall both ways beside chance, see `retrieval`."""
    model, corpus = subject.model, subject.held_out[part]
    member = model.networks()[0]
    embedded = image_embeddings(model, member, corpus)
    return retrieval(member, corpus, embedded, candidate_sets(corpus, subject.seed)) or None


@chapter("cell_types", "Cell types")
def cell_types(subject: Subject, part: str, report: Report) -> dict[str, Any] | None:
    """How well the model's probe names cell types, beside a probe on appearance alone.

    Returns:
        types, n, methods (``probe``, ``appearance``, ``majority``; see `classification.scores`),
        and clusters: ari and nmi of k-means on the image embeddings, on appearance, and of the
        types that the probe calls, against the labels.
    """
    model, corpus = subject.model, subject.held_out[part]
    if model.types is None:
        return None
    names = list(model.types.names)
    of = labelled(corpus, subject.labels, names)
    if len(of.rows) < 2 or len(np.unique(of.codes)) < 2:
        return None
    embedded = embeddings(model, corpus, of.rows)
    probabilities = model.types.probabilities(embedded).cpu().numpy()
    looks = appearance(subject, corpus)[np.searchsorted(corpus.measured, of.rows)]
    plain = _on_appearance(subject, names)
    other = plain.probabilities(torch.from_numpy(looks)).numpy()
    own = labelled(subject.train, subject.labels, names)
    prior = np.bincount(own.codes, minlength=len(names)) / max(len(own.codes), 1)
    methods = {
        "probe": (probabilities, other.argmax(1)),
        "appearance": (other, None),
        "majority": (np.broadcast_to(prior, other.shape), None),
    }
    few = drawn(np.arange(len(of.rows)), CLUSTERED, subject.seed)
    truth = of.codes[few]
    return {
        "types": names,
        "n": len(of.rows),
        "methods": {
            name: scores(values, of.codes, of.patients, names, against, seed=subject.seed)
            for name, (values, against) in methods.items()
        },
        "clusters": {
            "embeddings": _clustered(embedded.cpu().numpy()[few], truth, len(names), subject.seed),
            "appearance": _clustered(looks[few], truth, len(names), subject.seed),
            "called types": _agreement(probabilities.argmax(1)[few], truth),
        },
    }


def _on_appearance(subject: Subject, names: list[str]) -> TypeProbe:
    """The model's kind of probe on appearance, fitted and calibrated like the model's own."""
    train = subject.train
    own = _some(labelled(train, subject.labels, names), subject.seed)
    place = np.searchsorted(train.measured, own.rows)
    rows = torch.from_numpy(appearance(subject, train)[place])
    codes = torch.from_numpy(own.codes)
    penalty = choose_penalty(rows, codes, own.patients, names)
    probe = TypeProbe.fit(rows, codes, names, penalty)
    validation = subject.held_out.get("validation")
    if validation is not None:
        of = _some(labelled(validation, subject.labels, names), subject.seed)
        if len(of.rows):
            seen = appearance(subject, validation)[np.searchsorted(validation.measured, of.rows)]
            _, unit, count = np.unique(of.patients, return_inverse=True, return_counts=True)
            weights = torch.from_numpy(1.0 / count[unit])
            logits = probe.logits(torch.from_numpy(seen))
            probe.temperature.fill_(fitted_temperature(logits, torch.from_numpy(of.codes), weights))
    return probe


def _some(of: Labelled, seed: int) -> Labelled:
    kept = drawn(np.arange(len(of.rows)), FITTED, seed)
    return Labelled(of.rows[kept], of.codes[kept], of.patients[kept], of.other)


def _clustered(rows: Any, truth: Any, clusters: int, seed: int) -> dict[str, float]:
    """Agreement of k-means with the labels, as many clusters as there are types."""
    from sklearn.cluster import MiniBatchKMeans

    spread = rows.std(0)
    standard = (rows - rows.mean(0)) / np.where(spread > 1e-6, spread, 1.0)
    found = MiniBatchKMeans(clusters, random_state=seed, n_init=5).fit_predict(standard)
    return _agreement(found, truth)


def _agreement(found: Any, truth: Any) -> dict[str, float]:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "ari": float(adjusted_rand_score(truth, found)),
        "nmi": float(normalized_mutual_info_score(truth, found)),
    }
