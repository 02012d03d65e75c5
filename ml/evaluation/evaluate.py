"""The scores that every training ends with: the model beside the baselines that cost little."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ml.evaluation.baselines.linear import colour_ridge, frozen_ridge, mean_of_training
from ml.evaluation.expression import score
from ml.evaluation.retrieval import candidate_sets, image_embeddings, retrieval
from ml.evaluation.spatial import spatially_variable
from ml.evaluation.subject import Predictor
from ml.models.past import PAST
from ml.training.corpus import Corpus

if TYPE_CHECKING:
    from ml.report import Report

PER_GENE = "per_gene.csv"


def own_predictor(model: PAST) -> Predictor:
    """The model itself."""
    return Predictor("past", "PAST", lambda corpus: corpus.predict(model))


def cheap_baselines(model: PAST, train: Corpus) -> list[Predictor]:
    """The mean, and ridges on the features that a model of features has at hand."""
    found = [mean_of_training(train)]
    if model.config.features is not None:
        found += [colour_ridge(model, train), frozen_ridge(model, train)]
    return found


def evaluate(
    model: PAST, train: Corpus, parts: dict[str, Corpus], out: Path, report: Report
) -> dict[str, dict[str, Any]]:
    """Score the model and its baselines on held-out parts, and write ``per_gene.csv``.

    Returns:
        part → what `score` says, with ``retrieval`` in the first member's shared space (see
        `retrieval`); of the validation part alone also ``not_predictable``, symbols of the genes
        whose 95 % interval does not lie above 0.
    """
    baselines, spatial = cheap_baselines(model, train), spatially_variable(train)
    member = model.networks()[0]
    symbols = model.config.vocabulary.symbols
    frames: dict[str, pd.DataFrame] = {}
    metrics: dict[str, dict[str, Any]] = {}
    for share, (part, corpus) in enumerate(parts.items()):
        found, frames[part] = score(
            own_predictor(model), baselines, corpus, symbols, model.config.row_kind, spatial
        )
        found["retrieval"] = retrieval(
            member, corpus, image_embeddings(model, member, corpus), candidate_sets(corpus)
        )
        if part == "validation":
            kept = frames[part]["pcc_low"].to_numpy() > 0
            unlisted = set(np.asarray(frames[part]["gene"])[~kept])
            found["not_predictable"] = [symbol for symbol in symbols if symbol in unlisted]
        metrics[part] = found
        if found["pcc_median"] is not None:
            report.metric(f"{part}_pcc", found["pcc_median"])
        report.progress((share + 1) / len(parts))
    if frames:
        write_genes(frames, out)
    return metrics


def write_genes(frames: dict[str, pd.DataFrame], out: Path) -> None:
    """All parts' tables as one ``per_gene.csv`` with the part in front."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [frame.assign(part=part) for part, frame in frames.items()]
    table = pd.concat(parts)
    table = table[["part", *(c for c in table.columns if c != "part")]]
    table.to_csv(out / PER_GENE, index=False, float_format="%.5g")
