"""Retrieval across modalities: the right cell among many, from its image, and the reverse."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.evaluation.bootstrap import MIN_UNITS, RESAMPLES, resampled_patients
from ml.evaluation.metrics import Floats
from ml.models.past import PAST, Member
from ml.training.corpus import CHUNK, Corpus

CANDIDATES = 256  # rows of one slide to choose among
AT = (1, 5, 10, 50)
SETS = 4  # candidate sets per slide at most; recall is averaged over all of them


def candidate_sets(
    corpus: Corpus, seed: int = 0, candidates: int = CANDIDATES, sets: int = SETS
) -> list[NDArray[np.int64]]:
    """Seeded draws of measured rows, each from one slide and disjoint from the others.

    A slide with fewer rows than `candidates` gives one smaller set.
    """
    slide = corpus.section[corpus.measured]
    found: list[NDArray[np.int64]] = []
    for number in np.unique(slide):
        rows = np.random.default_rng([seed, int(number)]).permutation(
            corpus.measured[slide == number]
        )
        size = min(candidates, len(rows))
        count = min(max(len(rows) // size, 1), sets)
        found.extend(np.sort(rows[i * size : (i + 1) * size]) for i in range(count))
    return [rows for rows in found if len(rows) > 1]


def ranks(image: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates that score above the true partner: (n, dim) twice → image→gene, gene→image (n,).

    Candidates that score the same as the partner count half, so that embeddings that are all alike
    retrieve nothing.
    """
    similarity = image @ cell.T
    own = similarity.diagonal()
    both = []
    for scores in (similarity, similarity.T):
        above = (scores > own[:, None]).sum(1).double()
        ties = (scores == own[:, None]).sum(1).double() - 1
        both.append(above + ties / 2)
    return both[0], both[1]


@torch.no_grad()
def image_embeddings(model: PAST, member: Member, corpus: Corpus) -> Tensor:
    """Image embeddings (measured rows, dim) before the projection; the member in eval mode."""
    return torch.cat([member.embed(corpus.images(rows, model)) for rows in corpus.chunks()])


@torch.no_grad()
def retrieval(
    member: Member, corpus: Corpus, embeddings: Tensor, sets: list[NDArray[np.int64]]
) -> dict[str, float]:
    """Recall at each of `AT` in both directions beside its chance; the member in eval mode.

    Args:
        embeddings: (measured rows, dim) of `image_embeddings`.
        sets: of `candidate_sets`.

    Returns:
        image_to_gene_rK, gene_to_image_rK and chance_rK for each K of `AT`, the first two with the
        ends of a 95 % interval (_low, _high) where there are `MIN_UNITS` patients, whom it
        resamples; candidates (rows of the largest set), sets.
    """
    if not sets:
        return {}
    place = np.searchsorted(corpus.measured, np.concatenate(sets))
    rows = corpus.measured[place]
    image = member.image_projection(embeddings[torch.from_numpy(place).to(embeddings.device)])
    parts = np.array_split(rows, max(len(rows) // CHUNK, 1))
    batches = (corpus.cells(part, embeddings.device) for part in parts)
    cell = torch.cat([member.cell_projection(member.embed_cell(batch)) for batch in batches])
    sizes = [len(s) for s in sets]
    pairs = zip(torch.split(image, sizes), torch.split(cell, sizes), strict=True)
    of_sets = [ranks(i, c) for i, c in pairs]
    patients = [corpus.sections[int(corpus.section[some[0]])].patient for some in sets]
    found: dict[str, float] = {}
    for at in AT:
        for way, side in (("image_to_gene", 0), ("gene_to_image", 1)):
            hits = np.array([float((both[side] < at).double().mean()) for both in of_sets])
            found |= _with_interval(f"{way}_r{at}", hits, np.array(sizes), patients)
        # A query of a set of n rows finds its partner by chance k times in n.
        found[f"chance_r{at}"] = sum(min(at, n) for n in sizes) / sum(sizes)
    return found | {"candidates": max(sizes), "sets": len(sizes)}


def _with_interval(
    name: str, hits: Floats, sizes: NDArray[np.int64], patients: list[str]
) -> dict[str, float]:
    """Share of all queries that hit, with an interval over patients where there are enough."""
    found = {name: float(np.average(hits, weights=sizes))}
    if len(set(patients)) < MIN_UNITS:
        return found
    weights, tail = resampled_patients(patients, RESAMPLES, np.random.default_rng(0))
    drawn = (weights * sizes) @ hits / (weights @ sizes)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return found | {f"{name}_low": float(low), f"{name}_high": float(high)}


def recall_at_10(found: dict[str, float]) -> float:
    """Mean of both directions."""
    return (found["image_to_gene_r10"] + found["gene_to_image_r10"]) / 2
