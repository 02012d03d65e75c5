"""Cell types of a trained model: the probe that it keeps, and the other ways of telling types.

The probe and the neighbours see the image embedding; marker sets see predicted expression; the
morphology baseline is the same probe on colour and texture alone, which any model must beat. All
are fitted to training patients, calibrated on validation patients, and scored on held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.evaluation.classification import calibration_error, scores
from ml.models.past import PAST
from ml.models.types import (
    ABSTAIN_BELOW,
    TypeProbe,
    choose_penalty,
    fitted_temperature,
    nearest_votes,
)
from ml.tasks.marker_sets import marker_scores, read_marker_sets, sets_of_labels
from ml.training.corpus import Corpus, Rows, predict_rows
from ml.training.prepare import SectionInput
from ml.training.trust import spread

if TYPE_CHECKING:
    from ml.report import Report

FEWEST_CELLS, FEWEST_PATIENTS = 20, 2
# Labelled rows of a part that are fitted to or scored at most, evenly spread over the part.
MOST_ROWS = 50_000
NEIGHBOURS = 15
# Training rows that the penalty is chosen on at most.
CHOSEN_ON = 12_000
Labels = dict[str, tuple[NDArray[np.int32], list[str]]]
_Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Labelled:
    """Labelled rows of one part.

    Attributes:
        rows: (n,) rows of the corpus.
        codes: (n,) types, places in the list of names.
        patients: (n,) number of each row's patient.
        other: rows with a label that is not among the names.
    """

    rows: Rows
    codes: NDArray[np.int64]
    patients: NDArray[np.int64]
    other: int


def read_labels(given: Iterable[SectionInput]) -> Labels:
    """Labels of the sections whose tables have any: codes (rows,) and names, by slide code."""
    from ml.io.celltable import CellTable

    found = {s.slide_code: CellTable.open(s.table).labels() for s in given}
    return {code: labels for code, labels in found.items() if labels is not None}


def labelled(corpus: Corpus, labels: Labels, names: Sequence[str]) -> Labelled:
    """The rows of a corpus that have one of some types."""
    number = {name: code for code, name in enumerate(names)}
    patients = sorted({section.patient for section in corpus.sections})
    rows, codes, of, other = [], [], [], 0
    for place, section in enumerate(corpus.sections):
        if section.code not in labels:
            continue
        own, own_names = labels[section.code]
        to = np.array([number.get(name, -1) for name in own_names] + [-1], np.int64)
        here = to[own]
        kept = np.flatnonzero(here >= 0)
        other += int(((own >= 0) & (here < 0)).sum())
        rows.append(kept + corpus.offsets[place])
        codes.append(here[kept])
        of.append(np.full(len(kept), patients.index(section.patient)))
    if not rows:
        nothing = np.zeros(0, np.int64)
        return Labelled(nothing, nothing, nothing, other)
    kept = spread(np.arange(sum(map(len, rows))), MOST_ROWS)
    whole, types, whose = (np.concatenate(x).astype(np.int64)[kept] for x in (rows, codes, of))
    return Labelled(whole, types, whose, other)


def learnable(train: Corpus, labels: Labels) -> tuple[list[str], list[dict[str, Any]]]:
    """Types with enough training cells and patients, by name, and what the others lack."""
    cells = {name: 0 for _, names in labels.values() for name in names}
    patients: dict[str, set[str]] = {name: set() for name in cells}
    for section in train.sections:
        codes, names = labels.get(section.code, (np.zeros(0, np.int32), []))
        for name, count in zip(
            names, np.bincount(codes[codes >= 0], minlength=len(names)).tolist(), strict=True
        ):
            cells[name] += count
            if count:
                patients[name].add(section.patient)
    left_out = [
        {"type": name, "cells": cells[name], "patients": len(patients[name])}
        for name in sorted(cells)
        if cells[name] < FEWEST_CELLS or len(patients[name]) < FEWEST_PATIENTS
    ]
    without = {entry["type"] for entry in left_out}
    return [name for name in sorted(cells) if name not in without], left_out


def fit_types(
    model: PAST,
    train: Corpus,
    held_out: dict[str, Corpus],
    labels: Labels,
    report: Report,
    *,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Give a trained model its probe of cell types, and score every way of telling them.

    Args:
        held_out: corpora of ``validation``, which probabilities are calibrated on, and ``test``.
        labels: of `read_labels`.

    Returns:
        types, left_out, training_cells, fitted_on, calibrated_on, penalty, temperature,
        abstain_below, and methods → part → scores (see `ml.evaluation.classification.scores`);
        None, and no probe, where fewer than two types can be learned.
    """
    names, left_out = learnable(train, labels)
    for entry in left_out:
        report.log(
            f"Cell type {entry['type']!r} is left out: {entry['cells']} training cells of "
            f"{entry['patients']} patients (needed: {FEWEST_CELLS} of {FEWEST_PATIENTS})."
        )
    if len(names) < 2:
        return None
    own = labelled(train, labels, names)
    parts = {part: labelled(corpus, labels, names) for part, corpus in held_out.items()}
    parts = {part: found for part, found in parts.items() if len(found.rows)}
    fitting = _Fitting(model, train, held_out, own, parts, names)
    probe, penalty, inputs = fitting.probe(embeddings)
    model.types = probe
    logits = {"probe": {part: probe.logits(inputs[part]) for part in parts}}
    logits["knn"] = fitting.votes(probe, inputs)
    logits |= fitting.from_markers()
    if model.config.features is not None:
        plain, _, stain = fitting.probe(morphology)
        logits["morphology"] = {part: plain.logits(stain[part]) for part in parts}
    prior = torch.bincount(fitting.codes(own), minlength=len(names)).double()
    prior = (prior / prior.sum()).clamp_min(1e-12).log()
    logits["majority"] = {part: prior.expand(len(of.rows), -1) for part, of in parts.items()}
    temperatures = {name: fitting.temperature(of) for name, of in logits.items()}
    probe.temperature.fill_(temperatures["probe"])
    return {
        "types": names,
        "left_out": left_out,
        "training_cells": dict(
            zip(names, np.bincount(own.codes, minlength=len(names)).tolist(), strict=True)
        ),
        "fitted_on": len(own.rows),
        "calibrated_on": "validation" if "validation" in parts else None,
        "penalty": penalty,
        "temperature": temperatures["probe"],
        "abstain_below": ABSTAIN_BELOW,
        "neighbours": NEIGHBOURS,
        "methods": {
            name: fitting.scored(of, temperatures[name], logits.get("morphology"), name, seed)
            for name, of in logits.items()
        },
    }


@torch.no_grad()
def embeddings(model: PAST, corpus: Corpus, rows: Rows) -> Tensor:
    """Image embeddings (n, dim) of some rows by the first member."""
    member = model.networks()[0].eval()
    parts = np.array_split(rows, max(-(-len(rows) // corpus.chunk), 1))
    return torch.cat([member.embed(corpus.images(part, model)) for part in parts])


@torch.no_grad()
def morphology(model: PAST, corpus: Corpus, rows: Rows) -> Tensor:
    """Colour and texture (n, columns) of some rows over all windows."""
    assert model.config.features is not None
    columns = torch.from_numpy(model.config.features.columns("stain"))
    parts = np.array_split(rows, max(-(-len(rows) // corpus.chunk), 1))
    device = model.feature_mean.device
    return torch.cat(
        [
            model.standardise(torch.from_numpy(corpus.raw(part)).to(device))[:, columns.to(device)]
            for part in parts
        ]
    )


class _Fitting:
    """Every method on the same rows: training rows to fit to, and those of held-out parts."""

    def __init__(
        self,
        model: PAST,
        train: Corpus,
        held_out: dict[str, Corpus],
        own: Labelled,
        parts: dict[str, Labelled],
        names: list[str],
    ) -> None:
        self._model, self._train, self._held_out = model, train, held_out
        self._own, self._parts, self._names = own, parts, names

    def codes(self, of: Labelled) -> Tensor:
        return torch.from_numpy(of.codes).to(self._model.feature_mean.device)

    def probe(
        self, inputs: Callable[[PAST, Corpus, Rows], Tensor]
    ) -> tuple[TypeProbe, float, _Parts]:
        """A probe on some inputs, its penalty, and the inputs of every part."""
        seen = {
            part: inputs(self._model, self._held_out[part], of.rows)
            for part, of in self._parts.items()
        }
        rows = inputs(self._model, self._train, self._own.rows)
        codes, few = self.codes(self._own), spread(np.arange(len(rows)), CHOSEN_ON)
        penalty = choose_penalty(
            rows[torch.from_numpy(few)], codes[torch.from_numpy(few)], self._own.patients[few],
            self._names,
        )  # fmt: skip
        probe = TypeProbe.fit(rows, codes, self._names, penalty)
        return probe, penalty, {**seen, "train": rows}

    def votes(self, probe: TypeProbe, inputs: _Parts) -> _Parts:
        """Log shares of the nearest training rows; inputs are standardised as the probe's are."""
        reference, codes = probe.standardised(inputs["train"]), self.codes(self._own)
        types = len(self._names)
        found: _Parts = {}
        for part in self._parts:
            rows = probe.standardised(inputs[part])
            votes = nearest_votes(reference, codes, rows, types, NEIGHBOURS)
            # Half a vote for every type, or a type without votes would be impossible.
            found[part] = (votes + 0.5 / NEIGHBOURS).log()
        return found

    def from_markers(self) -> dict[str, _Parts]:
        """Scores of the marker sets of the types, where at least two have one on the panel."""
        symbols = self._model.config.vocabulary.symbols
        columns = sets_of_labels(read_marker_sets(), self._names, symbols)
        if len(columns) < 2:
            return {}
        place = [self._names.index(name) for name in columns]
        found: _Parts = {}
        for part, of in self._parts.items():
            corpus = self._held_out[part]
            blocks = np.array_split(of.rows, max(-(-len(of.rows) // corpus.chunk), 1))
            expression = np.concatenate([predict_rows(self._model, corpus, b) for b in blocks])
            values = np.full((len(of.rows), len(self._names)), -1e4)
            values[:, place] = marker_scores(expression, list(columns.values()))
            found[part] = torch.from_numpy(values)
        return {"zero_shot": found}

    def temperature(self, logits: _Parts) -> float:
        """The temperature of the validation patients, each of whom counts the same; else 1."""
        of = self._parts.get("validation")
        if of is None:
            return 1.0
        _, unit, count = np.unique(of.patients, return_inverse=True, return_counts=True)
        weights = torch.from_numpy(1.0 / count[unit])
        on = logits["validation"].device
        return fitted_temperature(logits["validation"], self.codes(of).to(on), weights.to(on))

    def scored(
        self, logits: _Parts, temperature: float, baseline: _Parts | None, name: str, seed: int
    ) -> dict[str, Any]:
        """Scores of one method on each part, beside the morphology baseline."""
        found = {}
        for part, of in self._parts.items():
            values = logits[part].double().cpu()
            probabilities = (values / temperature).softmax(1).numpy()
            other = None
            if baseline is not None and name != "morphology":
                other = baseline[part].argmax(1).cpu().numpy()
            sure = probabilities.max(1) >= ABSTAIN_BELOW
            right = probabilities.argmax(1) == of.codes
            found[part] = {
                **scores(probabilities, of.codes, of.patients, self._names, other, seed=seed),
                "ece_uncalibrated": calibration_error(values.softmax(1).numpy(), of.codes),
                "named": float(sure.mean()),
                "named_accuracy": float(right[sure].mean()) if sure.any() else None,
                "other_types": of.other,
            }
        return found
