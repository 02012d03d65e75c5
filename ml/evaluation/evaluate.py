"""The evaluation that every training ends with: the model beside its baselines, gene by gene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.evaluation.baselines import fit_baselines
from ml.evaluation.metrics import (
    Floats,
    blocks,
    gene_intervals,
    paired_difference,
    split_half_ceiling,
    summary,
    within_groups,
)
from ml.evaluation.retrieval import candidate_sets, image_embeddings, retrieval
from ml.models.past import PAST
from ml.training.corpus import Corpus

if TYPE_CHECKING:
    from ml.report import Report

CEILING_ROWS = 20_000
RESAMPLES = 1000
# Blocks of the bootstrap: about the reach of spatial correlation, and ten and more to a section.
BLOCK_UM = {"cell": 100.0, "spot": 600.0}


def slide_blocks(corpus: Corpus, side_um: float) -> NDArray[np.int64]:
    """Spatial block of each measured row, numbered within its slide."""
    slide = corpus.section[corpus.measured]
    found = np.zeros(len(slide), np.int64)
    for number in np.unique(slide):
        here = slide == number
        found[here] = blocks(corpus.xy_um[corpus.measured[here]], side_um)
    return found


def ceiling(corpus: Corpus, seed: int = 0) -> Floats:
    """Split-half ceiling of each gene, on at most `CEILING_ROWS` rows of the corpus."""
    rows = corpus.measured
    if len(rows) > CEILING_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, CEILING_ROWS, replace=False))
    return split_half_ceiling(
        corpus.counts[rows].toarray(), corpus.totals[rows], corpus.section[rows], seed
    )


def evaluate(
    model: PAST, train: Corpus, parts: dict[str, Corpus], out: Path, report: Report
) -> dict[str, dict[str, Any]]:
    """Score the model and its baselines on held-out parts.

    Correlations are taken within each slide and averaged over the slides. Writes
    ``per_gene.csv`` (part, gene, pcc, scc, ceiling, the 95 % interval of pcc and the baselines'
    pcc).

    Returns:
        part → pcc_median, pcc_q1, pcc_q3, scc_median, baselines, difference to the colour ridge
        with its interval, ceiling, retrieval in the first member's shared space (see
        `retrieval`), and the numbers of rows and genes; of the validation part alone also
        ``not_predictable``, symbols of the genes whose interval does not lie above 0 (see
        `gene_intervals`).
    """
    out.mkdir(parents=True, exist_ok=True)
    baselines = fit_baselines(model, train) if model.config.features is not None else {}
    member = model.networks()[0]
    frames: list[pd.DataFrame] = []
    metrics: dict[str, dict[str, Any]] = {}
    for share, (part, corpus) in enumerate(parts.items()):
        slide = corpus.section[corpus.measured]
        measured = corpus.all_expression()
        predicted = corpus.predict(model)
        pcc = within_groups(predicted, measured, slide)
        scc = within_groups(predicted, measured, slide, ranks=True)
        reachable = ceiling(corpus)
        block = slide_blocks(corpus, BLOCK_UM[model.config.row_kind])
        patients = [section.patient for section in corpus.sections]
        pcc_low, pcc_high = gene_intervals(predicted, measured, slide, block, patients)
        # The mean predictor is constant within a slide: it correlates with nothing.
        columns = {
            "pcc": pcc, "scc": scc, "ceiling_pcc": reachable,
            "pcc_low": pcc_low, "pcc_high": pcc_high,
        }  # fmt: skip
        symbols = np.asarray(model.config.vocabulary.symbols)
        found: dict[str, Any] = {
            **summary(pcc),
            "scc_median": float(np.median(scc)),
            "ceiling_pcc_median": float(np.median(reachable)),
            "n_rows": len(slide),
            "n_genes": len(pcc),
            "retrieval": retrieval(
                member, corpus, image_embeddings(model, member, corpus), candidate_sets(corpus)
            ),
            "baselines": {"mean": {"pcc_median": 0.0}},
        }
        for name, baseline in baselines.items():
            values = baseline.predict(model, corpus)
            columns[f"{name}_pcc"] = within_groups(values, measured, slide)
            found["baselines"][name] = summary(columns[f"{name}_pcc"])
            if name == "colour_ridge":
                _, low, high = difference = paired_difference(
                    measured,
                    predicted,
                    values,
                    slide,
                    block,
                    patients,
                    seed=0,
                    resamples=RESAMPLES,
                )
                found |= {
                    "difference": difference[0],
                    "difference_low": low,
                    "difference_high": high,
                }
        if part == "validation":
            found["not_predictable"] = symbols[pcc_low <= 0].tolist()
        metrics[part] = found
        frame = pd.DataFrame({"part": part, "gene": symbols, **columns})
        frames.append(frame.sort_values("pcc", ascending=False))
        report.metric(f"{part}_pcc", found["pcc_median"])
        report.progress((share + 1) / len(parts))
    if frames:
        pd.concat(frames).to_csv(out / "per_gene.csv", index=False, float_format="%.5f")
    return metrics
