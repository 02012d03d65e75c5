"""What the choice of a split does, and HEST-Bench's own protocol, on the frozen encoder alone.

Both say nothing of the model: they say how hard the data is and how a score would look had the
slides been split otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ml.evaluation.baselines.linear import encoder_columns
from ml.evaluation.chapters import chapter
from ml.evaluation.metrics import Floats, summary, within_groups
from ml.evaluation.ridge import Solver, Sums, minus
from ml.evaluation.spatial import audit_overlap, block_folds
from ml.evaluation.subject import Subject, drawn
from ml.inference.crops import crop_sides
from ml.training.corpus import CHUNK, Corpus, Rows

if TYPE_CHECKING:
    from ml.report import Report

FOLDS, COMPONENTS, PENALTY = 5, 64, 0.3
MOST_ROWS = 40_000
# Blocks in units of the widest crop: large enough that a gap leaves most of the training rows.
BLOCKS = 2.0
# Fewer spots are not worth a regression on 256 components.
TRAINING_SPOTS, TEST_SPOTS, SPOT_GENES = 50, 10, 50


@chapter("splits", "What the split does")
def splits(subject: Subject, part: str, report: Report) -> dict[str, Any] | None:
    """The same linear probe under four ways to split the training part; no other part is used.

    Rows at random put neighbours on both sides; spatial blocks keep a gap of one crop within each
    slide; patients and sites are left out whole. A ridge on principal components of the frozen
    features, with the same penalty throughout.

    Returns:
        way → pcc_median, pcc_q1, pcc_q3, folds, and gap_um for blocks; None for a model that has
        no features.
    """
    if subject.model.config.features is None:
        return None
    train = subject.train
    rows = drawn(train.measured, MOST_ROWS, subject.seed)
    inputs = _components(subject, train, rows)
    targets = train.expression(rows).astype(np.float64)
    section = train.section[rows]
    names = [s.patient for s in train.sections]
    patients = np.array([sorted(set(names)).index(n) for n in names])[section]
    random = np.random.default_rng(subject.seed).permutation(len(rows)) % FOLDS
    found = {"random rows": _folds(inputs, targets, section, random)}
    found["blocks"] = _blocks(subject, train, rows, inputs, targets)
    if len(np.unique(patients)) > 1:
        found["patients"] = _folds(inputs, targets, section, _dealt(patients))
    sites = np.array([subject.sites.get(name, "") for name in names])[section]
    if len(np.unique(sites[sites != ""])) > 1:
        known = sites != ""
        _, number = np.unique(sites[known], return_inverse=True)
        found["sites"] = _folds(inputs[known], targets[known], section[known], number.ravel())
    return found


def _components(subject: Subject, corpus: Corpus, rows: Rows) -> Floats:
    """Principal components of the frozen encoder's features, standardised.

    They are fitted to all rows, held-out folds among them: they see no expression, and are the
    same in every way of splitting.
    """
    model, columns = subject.model, encoder_columns(subject.model)
    parts = []
    for at in range(0, len(rows), CHUNK):
        raw = torch.from_numpy(corpus.raw(rows[at : at + CHUNK]))
        values = raw.to(model.feature_mean.device)
        parts.append(model.standardise(values).cpu().numpy()[:, columns])
    inputs = np.concatenate(parts).astype(np.float64)
    inputs -= inputs.mean(0)
    lengths, vectors = np.linalg.eigh(inputs.T @ inputs / len(inputs))
    kept = slice(-min(COMPONENTS, len(lengths)), None)
    found: Floats = inputs @ vectors[:, kept] / np.sqrt(np.maximum(lengths[kept], 1e-9))
    return found


def _dealt(units: NDArray[np.int64]) -> NDArray[np.int64]:
    return units % FOLDS


def _folds(
    inputs: Floats, targets: Floats, section: NDArray[np.int64], fold: NDArray[np.int64]
) -> dict[str, Any]:
    """Pearson within slides of rows predicted by the folds that they are not in."""
    sums = [Sums.over([(inputs[fold == k], targets[fold == k])]) for k in np.unique(fold)]
    total = sum(sums[1:], sums[0])
    predicted = np.zeros_like(targets)
    for k, own in zip(np.unique(fold), sums, strict=True):
        predicted[fold == k] = Solver(minus(total, own)).ridge(PENALTY).predict(inputs[fold == k])
    return {**summary(within_groups(predicted, targets, section)), "folds": len(sums)}


def _blocks(
    subject: Subject, train: Corpus, rows: Rows, inputs: Floats, targets: Floats
) -> dict[str, Any]:
    config = subject.model.config
    gap = crop_sides(config.row_kind, config.spot_diameter_um)[0]
    section, predicted = train.section[rows], np.full_like(targets, np.nan)
    all_sums = Sums.over([(inputs, targets)])
    scored = np.zeros(len(rows), bool)
    for number in np.unique(section):
        own = np.flatnonzero(section == number)
        xy = train.xy_um[rows[own]]
        if (np.ptp(xy, axis=0) / (BLOCKS * gap)).prod() < FOLDS:
            continue
        folds = block_folds(xy, BLOCKS * gap, gap, FOLDS, subject.seed)
        for k in range(FOLDS):
            kept, test = folds.parts(k)
            if not len(test) or not len(kept):
                continue
            audit_overlap(xy[kept], xy[test], gap, f"slide {train.sections[number].code}")
            out = np.setdiff1d(np.arange(len(own)), kept)
            left = minus(all_sums, Sums.over([(inputs[own[out]], targets[own[out]])]))
            ridge = Solver(left).ridge(PENALTY)
            predicted[own[test]] = ridge.predict(inputs[own[test]])
            scored[own[test]] = True
    pcc = within_groups(predicted[scored], targets[scored], section[scored])
    return {**summary(pcc), "folds": FOLDS, "gap_um": gap, "rows": int(scored.sum())}


@chapter("hest_protocol", "HEST-Bench’s protocol")
def hest_protocol(subject: Subject, part: str, report: Report) -> dict[str, Any] | None:
    """Frozen encoder, PCA-256 and ridge as HEST-Bench does it, on spots.

    Cells are summed up in squares of 112 µm, which are 224 px at the benchmark's resolution; spots
    are taken as they are. Genes are the 50 with the highest variance on the training part.

    Returns:
        pearson_mean and pearson_std over the genes, encoder, spots (training, test), genes,
        components; None where there are too few spots.
    """
    from ml.evaluation.benchmarks.hest import PATCH_UM, encode, linear_probe

    config = subject.model.config
    spots = {
        name: _spots(subject, corpus, PATCH_UM)
        for name, corpus in (("train", subject.train), (part, subject.held_out[part]))
    }
    (centres, counts), (test_centres, test_counts) = spots["train"], spots[part]
    if len(counts) < TRAINING_SPOTS or len(test_counts) < TEST_SPOTS:
        return None
    variance = np.log1p(counts).var(0)
    genes = np.sort(np.argsort(-variance, kind="stable")[:SPOT_GENES])
    features = [
        encode(config.encoder, _patches(subject, where, PATCH_UM))
        for where in (centres, test_centres)
    ]
    found, _ = linear_probe(features[0], np.log1p(counts[:, genes]),
                            features[1], np.log1p(test_counts[:, genes]))  # fmt: skip
    return {
        "pearson_mean": float(np.mean(found)), "pearson_std": float(np.std(found)),
        "encoder": config.encoder, "spots": {"train": len(counts), "test": len(test_counts)},
        "genes": [config.vocabulary.symbols[i] for i in genes],
        "components": min(256, features[0].shape[1], len(counts)),
    }  # fmt: skip


Centres = list[tuple[str, float, float]]


def _spots(subject: Subject, corpus: Corpus, side_um: float) -> tuple[Centres, Floats]:
    """Slide code and centre in µm of each spot, and its counts (spots, genes)."""
    centres: Centres = []
    counts: list[Any] = []
    for number, section in enumerate(corpus.sections):
        rows = corpus.measured[corpus.section[corpus.measured] == number]
        xy = corpus.xy_um[rows]
        if subject.model.config.row_kind == "spot":
            centres += [(section.code, float(x), float(y)) for x, y in xy]
            counts.append(corpus.counts[rows].toarray())
            continue
        square = np.floor(xy / side_um).astype(np.int64)
        keys, place = np.unique(square, axis=0, return_inverse=True)
        total = np.zeros((len(keys), corpus.counts.shape[1]))
        np.add.at(total, place.ravel(), corpus.counts[rows].toarray())
        centres += [(section.code, *((key + 0.5) * side_um).tolist()) for key in keys]
        counts.append(total)
    return centres, np.concatenate(counts) if counts else np.zeros((0, 0))


def _patches(subject: Subject, centres: Centres, side_um: float) -> NDArray[np.uint8]:
    from ml.inference.crops import crop

    found = np.empty((len(centres), 224, 224, 3), np.uint8)
    for place, (code, x, y) in enumerate(centres):
        slide = subject.slides[code]
        found[place] = crop(slide.reader, x / slide.mpp, y / slide.mpp, side_um, slide.mpp, 224)
    return found
