"""Cell types of measured cells from an annotated reference, in the space of the genes they share.

A logistic regression on log1p counts per 10,000 of the shared genes names types, calibrated on
reference cells that it was not fitted to. It knows only the reference's types: a cell further from
the type it is called than nearly all such reference cells (squared Mahalanobis distance with one
covariance within types; Lee et al., arXiv 1807.03888) gets no name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ml.errors import InputError
from ml.evaluation.classification import calibration_error, confusions, macro_f1
from ml.models.density import coordinates, shrunk_covariance
from ml.models.types import ABSTAIN_BELOW, TypeProbe, choose_penalty, nearest_votes

FEWEST_SHARED = 20
FEWEST_CELLS = 20
# Reference cells that are fitted to at most, drawn at random.
MOST_CELLS = 50_000
HELD_OUT = 0.2
COMPONENTS = 30
# Share of held-out reference cells that lie within the distance at which a cell still gets a name.
WITHIN = 0.98


@dataclass(frozen=True)
class Reference:
    """Annotated cells: counts (rows, genes), symbols, and a label for each row, "" for none."""

    counts: sparse.csr_matrix
    symbols: list[str]
    labels: list[str]


def read_reference(path: Path, column: str) -> Reference:
    """An annotated AnnData file: raw counts in X or layers["counts"], labels in a column of obs.

    Raises:
        InputError: ``cells.unreadable``, ``cells.cell_types``, ``reference.no_labels`` or
            ``reference.not_counts``.
    """
    from ml.io.celltable import is_counts
    from ml.io.study.cells import cell_types_of, open_anndata

    table = open_anndata(path)
    labels = cell_types_of(table, path, column)
    if labels is None:
        raise InputError(
            "reference.no_labels",
            path.name,
            f'It has no labels in obs["{column}"].',
            "Name the column that holds the cell types with --labels.",
        )
    counts = sparse.csr_matrix(table.layers.get("counts", table.X))
    if not is_counts(counts.data):
        raise InputError(
            "reference.not_counts",
            path.name,
            "It holds values that are no raw counts.",
            'Store raw counts in X or in layers["counts"].',
        )
    return Reference(counts, [str(name) for name in table.var_names], labels)


def shared_genes(reference: Sequence[str], other: Sequence[str], where: str) -> list[str]:
    """The genes of the reference that are measured here too.

    Raises:
        InputError: ``reference.few_genes``.
    """
    found = [symbol for symbol in reference if symbol in set(other)]
    if len(found) < FEWEST_SHARED:
        raise InputError(
            "reference.few_genes",
            where,
            f"It shares {len(found)} genes with the reference; {FEWEST_SHARED} are needed.",
            "Use a reference with the same gene naming (symbols such as ERBB2) and panel.",
        )
    return found


def expression_on(
    counts: sparse.csr_matrix, symbols: Sequence[str], genes: Sequence[str]
) -> Tensor:
    """log1p counts per 10,000 over some genes: (rows, genes) float32."""
    place = {symbol: column for column, symbol in enumerate(symbols)}
    chosen = counts[:, [place[gene] for gene in genes]].toarray().astype(np.float64)
    chosen *= 1e4 / np.maximum(chosen.sum(1, keepdims=True), 1.0)
    return torch.from_numpy(np.log1p(chosen).astype(np.float32))


@dataclass(frozen=True)
class Transfer:
    """A classifier in expression space, with what it knows of its reference.

    Attributes:
        genes: that it reads, in order.
        axes, means, whitening: principal axes (components, genes) of the standardised reference;
            of the components and the log length of what they leave out, each type's mean (types,
            components + 1) and the inverse root of the covariance within types.
        threshold: squared distance beyond which a cell gets no name.
        reference: standardised components (rows, components) and codes (rows,) that vote.
        checked: expression and codes of reference cells that nothing was fitted to or chosen on.
        report: types, cells, left_out, genes, penalty, temperature.
    """

    genes: list[str]
    probe: TypeProbe
    axes: Tensor
    means: Tensor
    whitening: Tensor
    threshold: float
    reference: tuple[Tensor, Tensor]
    checked: tuple[Tensor, Tensor]
    report: dict[str, Any]

    @classmethod
    def fit(cls, reference: Reference, genes: list[str], *, seed: int = 0) -> Transfer:
        """Fit to a reference on some of its genes.

        Raises:
            InputError: ``reference.few_types``: fewer than two types with enough cells.
        """
        names, left_out, rows, codes = _chosen(reference, seed)
        x = expression_on(reference.counts[rows], reference.symbols, genes)
        y = torch.from_numpy(codes)
        # The rows are in random order, so the first are a random share.
        cut = int(HELD_OUT * len(rows))
        checked, held, fitted = slice(0, cut // 2), slice(cut // 2, cut), slice(cut, None)
        folds = np.arange(len(rows) - cut) % 5
        few = slice(cut, cut + 10_000)
        penalty = choose_penalty(x[few], y[few], folds[: len(x[few])], names)
        probe = TypeProbe.fit(x[fitted], y[fitted], names, penalty)
        probe.calibrate(x[held], y[held])
        axes, means, whitening = _geometry(probe.standardised(x[fitted]), y[fitted], len(names))
        made = cls(
            genes, probe, axes, means, whitening, float("inf"),
            (probe.standardised(x[fitted]) @ axes.T, y[fitted]), (x[checked], y[checked]),
            {
                "types": names, "left_out": left_out, "cells": len(rows), "genes": len(genes),
                "penalty": penalty, "temperature": float(probe.temperature),
            },
        )  # fmt: skip
        distance = made.distance(x[held], probe.probabilities(x[held]).argmax(1)).numpy()
        object.__setattr__(made, "threshold", float(np.quantile(distance, WITHIN)))
        return made

    def distance(self, x: Tensor, codes: Tensor) -> Tensor:
        """Squared distances (n,) of expression (n, genes) from the types that it is called."""
        seen = coordinates(self.probe.standardised(x), self.axes)
        return ((seen - self.means[codes]) @ self.whitening).square().sum(1)

    def call(
        self, x: Tensor, neighbours: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Types of expression (n, genes): codes (n,), −1 for no name, and probabilities (n,).

        Args:
            neighbours: reference cells that vote; None: the classifier.
        """
        probabilities = self._probabilities(x, neighbours)
        sure, codes = probabilities.double().max(1)
        known = (self.distance(x, codes) <= self.threshold) & (sure >= ABSTAIN_BELOW)
        named = torch.where(known, codes, torch.full_like(codes, -1))
        return named.numpy(), sure.clamp(0, 1).numpy()

    def scores(self, neighbours: int | None = None) -> dict[str, Any]:
        """Macro-F1 and calibration error of one way of calling, on reference cells kept for it.

        These are random cells of the same reference, so other samples will do worse.
        """
        x, codes = self.checked
        probabilities = self._probabilities(x, neighbours).numpy()
        nobody = np.zeros(len(codes), np.int64)
        whole = confusions(codes.numpy(), probabilities.argmax(1), nobody, len(self.probe.names))
        return {
            "macro_f1": float(macro_f1(whole[0])),
            "ece": calibration_error(probabilities, codes.numpy()),
            "calibrated": neighbours is None,
            "scored_on": f"{len(codes)} random cells of the reference",
        }

    def _probabilities(self, x: Tensor, neighbours: int | None) -> Tensor:
        """(n, types): of the classifier, or the shares of the votes, which are not calibrated."""
        if neighbours is None:
            return self.probe.probabilities(x)
        rows, labels = self.reference
        seen = self.probe.standardised(x) @ self.axes.T
        return nearest_votes(rows, labels, seen, len(self.probe.names), neighbours)


def _chosen(
    reference: Reference, seed: int
) -> tuple[list[str], list[dict[str, Any]], NDArray[np.int64], NDArray[np.int64]]:
    """Types with enough cells, the others, and rows in random order with their codes."""
    labels = np.asarray(reference.labels)
    every, count = np.unique(labels[labels != ""], return_counts=True)
    names = every[count >= FEWEST_CELLS].tolist()
    left_out = [
        {"type": str(name), "cells": int(n)}
        for name, n in zip(every, count, strict=True)
        if n < FEWEST_CELLS
    ]
    if len(names) < 2:
        raise InputError(
            "reference.few_types",
            "reference",
            f"It has {len(names)} cell types with at least {FEWEST_CELLS} cells; 2 are needed.",
            "Give a reference with more annotated cells.",
        )
    measured = np.asarray(reference.counts.sum(1)).ravel() > 0
    rows = np.flatnonzero(np.isin(labels, names) & measured)
    rows = np.random.default_rng(seed).permutation(rows)[:MOST_CELLS]
    return names, left_out, rows, np.searchsorted(names, labels[rows]).astype(np.int64)


def _geometry(x: Tensor, codes: Tensor, types: int) -> tuple[Tensor, Tensor, Tensor]:
    """Principal axes of standardised rows (n, genes), the types' means, and the whitening."""
    _, _, axes = torch.pca_lowrank(x, min(COMPONENTS, x.shape[1]), center=False)
    seen = coordinates(x, axes.T).double()
    means = torch.stack(
        [seen[codes == t].mean(0) if (codes == t).any() else seen.mean(0) for t in range(types)]
    )
    power, directions = torch.linalg.eigh(shrunk_covariance(seen - means[codes]))
    whitening = directions / power.clamp_min(1e-6).sqrt()
    return axes.T.float(), means.float(), whitening.float()
