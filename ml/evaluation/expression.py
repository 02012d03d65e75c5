"""Predicted against measured expression: a model, its baselines and null controls on one part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ml.evaluation.bootstrap import MIN_UNITS, Draws, Resampling, blocks
from ml.evaluation.metrics import (
    LEAST_ROWS,
    Floats,
    broken,
    relative_variation_distance,
    spearman,
    split_half_ceiling,
    structural_similarity,
    summary,
    within_groups,
)
from ml.evaluation.significance import (
    LEVEL,
    benjamini_hochberg,
    compared,
    gene_p,
    smallest_p,
)
from ml.evaluation.spatial import SpatialGenes
from ml.evaluation.subject import Floats32, Predictor
from ml.training.corpus import Corpus

CEILING_ROWS = 20_000
# Blocks of the bootstrap: about the reach of spatial correlation, and ten and more to a section.
BLOCK_UM = {"cell": 100.0, "spot": 600.0}
NAMED = 5  # examples in a sentence


def slide_blocks(corpus: Corpus, side_um: float) -> NDArray[np.int64]:
    """Spatial block of each measured row, numbered within its slide."""
    slide = corpus.section[corpus.measured]
    found = np.zeros(len(slide), np.int64)
    for number in np.unique(slide):
        here = slide == number
        found[here] = blocks(corpus.xy_um[corpus.measured[here]], side_um)
    return found


def resampling_of(corpus: Corpus, block_um: float, seed: int = 0) -> Resampling:
    """Resamples of a corpus' patients, or of its blocks where patients are few."""
    patients = [section.patient for section in corpus.sections]
    slide = corpus.section[corpus.measured]
    return Resampling(slide, slide_blocks(corpus, block_um), patients, seed=seed)


def ceiling(corpus: Corpus, seed: int = 0) -> Floats:
    """Split-half ceiling of each gene, on at most `CEILING_ROWS` rows of the corpus."""
    rows = corpus.measured
    if len(rows) > CEILING_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, CEILING_ROWS, replace=False))
    return split_half_ceiling(
        corpus.counts[rows].toarray(), corpus.totals[rows], corpus.section[rows], seed
    )


def score(
    model: Predictor,
    baselines: Sequence[Predictor],
    corpus: Corpus,
    symbols: Sequence[str],
    row_kind: str,
    spatial: SpatialGenes | None = None,
    *,
    predicted: Floats32 | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Scores of a model and its baselines on one part.

    Scores are taken within each slide and averaged over the slides that define them. Intervals
    resample patients, or spatial blocks where there are fewer than `MIN_UNITS` patients.

    Args:
        spatial: genes with a spatial pattern on the training part; they are summed up apart.
        predicted: what the model predicts, if that is known already.

    Returns:
        metrics: pcc, scc, rvd and ssim (_median, _q1, _q3, and where some are not defined
        _undefined), pcc_low and pcc_high of the median, ceiling_pcc_median, genes_above_chance
        (Pearson above 0 at a false discovery rate of 5 %), spatial and other (n, pcc …),
        baselines (by name: title, fair, facts, pcc …, spatial_pcc_median, and for fair ones what
        `compared` says), controls (see `_controls`), n_rows, n_genes, patients, resampled,
        smallest_p, problems (sentences).
        table: one row per gene.
    """
    measured, slide = corpus.all_expression(), corpus.section[corpus.measured]
    predicted = model.predict(corpus) if predicted is None else predicted
    resampling = resampling_of(corpus, BLOCK_UM[row_kind], seed)
    draws = resampling.pearson(predicted, measured)
    low, high = draws.interval()
    p = gene_p(draws, resampling.patients)
    q = benjamini_hochberg(p)
    columns: dict[str, Any] = {
        "gene": list(symbols), "pcc": draws.found, "pcc_low": low, "pcc_high": high, "p": p, "q": q,
        "scc": within_groups(predicted, measured, slide, spearman),
        "rvd": within_groups(predicted, measured, slide, relative_variation_distance),
        "ssim": within_groups(predicted, measured, slide, structural_similarity),
        "ceiling_pcc": ceiling(corpus, seed),
    }  # fmt: skip
    if spatial is not None:
        columns |= {"spatial": spatial.chosen.astype(int), "moran": spatial.moran}
    _, middle_low, middle_high = draws.median()
    found: dict[str, Any] = {
        **{k: v for name in ("pcc", "scc", "rvd", "ssim")
           for k, v in summary(columns[name], name).items()},
        "pcc_low": middle_low, "pcc_high": middle_high,
        "ceiling_pcc_median": float(np.median(columns["ceiling_pcc"])),
        "genes_above_chance": int(np.count_nonzero((q < LEVEL) & (draws.found > 0))),
        "n_rows": len(slide), "n_genes": measured.shape[1], "n_slides": len(resampling.slides),
        "patients": len({s.patient for s in corpus.sections}),
        "resampled": resampling.of, "smallest_p": smallest_p(resampling.patients),
    }  # fmt: skip
    others: dict[str, Draws] = {}
    listed: dict[str, dict[str, Any]] = {}
    for baseline in baselines:
        of = others[baseline.name] = resampling.pearson(baseline.predict(corpus), measured)
        columns[f"{baseline.name}_pcc"] = of.found
        entry = {"title": baseline.title, "fair": baseline.fair, "facts": dict(baseline.facts)}
        listed[baseline.name] = entry | summary(of.found) | _apart(of, spatial)
    fair = {b.name: others[b.name] for b in baselines if b.fair}
    for name, result in compared(draws, fair, resampling.patients).items():
        listed[name] |= result
    found |= _apart(draws, spatial, whole=True) | {"baselines": listed}
    found["controls"] = _controls(predicted, measured, corpus, resampling, seed)
    found["problems"] = problems(predicted, corpus, draws, resampling, symbols)
    table = pd.DataFrame(columns).sort_values("pcc", ascending=False, na_position="last")
    return found, table


def _apart(draws: Draws, spatial: SpatialGenes | None, *, whole: bool = False) -> dict[str, Any]:
    """Genes with a spatial pattern and the others, each by itself."""
    if spatial is None:
        return {}
    if not whole:
        own = draws.found[spatial.chosen]
        return {"spatial_pcc_median": summary(own)["pcc_median"]}
    found: dict[str, Any] = {}
    for name, genes in (("spatial", spatial.chosen), ("other", ~spatial.chosen)):
        _, low, high = draws.median(genes)
        found[name] = {
            "n": int(genes.sum()), **summary(draws.found[genes]), "pcc_low": low, "pcc_high": high,
        }  # fmt: skip
    return found


def _controls(
    predicted: Floats32, measured: Floats32, corpus: Corpus, resampling: Resampling, seed: int
) -> dict[str, Any]:
    """The same predictions against data that they cannot know.

    Returns:
        ``permuted``: rows of each slide in random order; ``shifted``: each row has what was
        measured half a slide away, so that neighbours stay alike. Each with pcc …, and below_level,
        the share of genes whose p is below 5 %.
    """
    rng = np.random.default_rng(seed)
    slide = corpus.section[corpus.measured]
    permuted, shifted = (np.arange(len(slide)) for _ in range(2))
    for number in np.unique(slide):
        own = np.flatnonzero(slide == number)
        permuted[own] = rng.permutation(own)
        shifted[own] = own[_half_a_slide_away(corpus.xy_um[corpus.measured[own]])]
    found = {}
    for name, order in (("permuted", permuted), ("shifted", shifted)):
        draws = resampling.pearson(predicted, measured[order])
        p = gene_p(draws, resampling.patients)
        told = p[np.isfinite(p)]
        below = float((told < LEVEL).mean()) if len(told) else None
        found[name] = summary(draws.found) | {"below_level": below}
    return found


def _half_a_slide_away(xy: NDArray[np.float64]) -> NDArray[np.int64]:
    """The row nearest to half the slide's extent away from each row, around the border."""
    low, extent = xy.min(0), np.maximum(xy.max(0) - xy.min(0), 1e-9)
    there = low + (xy - low + extent / 2) % extent
    return np.asarray(cKDTree(xy).query(there)[1], np.int64)


def problems(
    predicted: Floats32,
    corpus: Corpus,
    draws: Draws,
    resampling: Resampling,
    symbols: Sequence[str],
) -> list[str]:
    """What keeps scores from being told, in sentences."""
    names = np.asarray(symbols)
    told: list[str] = []
    lost = broken(predicted)
    if lost.any():
        told.append(
            f"Predictions of {_listed(names[lost])} are not numbers in some rows: not scored."
        )
    constant = ~np.isfinite(draws.found) & ~lost
    if constant.any():
        told.append(
            f"{_listed(names[constant])}: no slide measures them with any variation, so no "
            "correlation is defined; they are left out of medians."
        )
    small = [s.code for i, s in enumerate(corpus.sections) if i not in resampling.slides]
    if small:
        told.append(f"Slides of fewer than {LEAST_ROWS} measured rows are left out: "
                    f"{', '.join(small[:NAMED])}{' …' if len(small) > NAMED else ''}.")  # fmt: skip
    patients = len({s.patient for s in corpus.sections})
    if patients < MIN_UNITS:
        told.append(
            f"{patients} patient{'s' if patients > 1 else ''}: too few to resample. Intervals "
            "and tests resample spatial blocks and speak of these slides, not of more patients."
        )
    return told


def _listed(names: NDArray[Any]) -> str:
    few = ", ".join(names[:NAMED].tolist())
    return f"{len(names)} genes ({few}{', …' if len(names) > NAMED else ''})"
