"""`past trial her2st`: spatial expression from H&E on real sections, each held out in turn.

Everything that is chosen (how far around a spot is looked, programmes, the linear start's penalty,
epochs) is chosen on the training sections alone, by leaving each of them out in turn, from the
candidates that stand here; the held-out section is scored once. Only expression is scored, so the
shared space is not aligned. Fixed for all folds, and not chosen by inner validation, are the two
resolutions of the features, ARCHITECTURE, SETTINGS and SEEDS.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.errors import InputError
from ml.evaluation.audit import Unit, audit, audit_images
from ml.evaluation.baselines.linear import colour_ridge, frozen_ridge
from ml.evaluation.bootstrap import Draws, Resampling
from ml.evaluation.expression import BLOCK_UM, ceiling, slide_blocks
from ml.evaluation.metrics import Floats, summary
from ml.evaluation.significance import compared
from ml.models.config import Architecture, ModelConfig
from ml.models.past import LossWeights, Member
from ml.report import Report
from ml.training.corpus import Corpus, Section
from ml.training.engine import Optimisation
from ml.training.loop import Trainer
from ml.training.memory import phases
from ml.training.prepare import (
    SectionInput,
    Start,
    Tables,
    build,
    model_config,
    pictures_of,
    read_images,
    read_tables,
)
from ml.training.settings import AlignSettings, Settings
from ml.training.start import left_out_pcc, set_start

GENES = 500
WIDEST = (1.0, 2.0, 4.0, 8.0)  # spot diameters that the widest window may span
RANKS = (2, 4, 8, 16, 32)
EPOCHS = 12
SEEDS = 3
LABEL = "held-out section of the same patient"
# Few rows and many noisy genes: small networks, strong regularisation.
ARCHITECTURE = Architecture(
    dim=48, hidden=64, project=32, cell_layers=1, context=64, dropout=0.3, input_dropout=0.3,
    neighbour_gradients=True,
)  # fmt: skip
SETTINGS = Settings(
    epochs=EPOCHS,
    batch=128,
    learning_rate=1e-3,
    patience=EPOCHS,
    losses=LossWeights(contrast=0.0, masked_gene=0.0),
    align=AlignSettings(epochs=0),
    optimisation=Optimisation(weight_decay=0.1),
)
PREDICTORS = ("PAST", "frozen-encoder ridge", "colour ridge", "mean")


@dataclass(frozen=True)
class Chosen:
    """Settings that inner validation found best; `pcc` is the Pearson it found."""

    widest: float
    rank: int
    epochs: int
    pcc: float


@dataclass(frozen=True)
class Fold:
    """Predictions for one held-out section, (rows, genes) each."""

    code: str
    genes: tuple[str, ...]
    measured: NDArray[np.float32]
    predicted: dict[str, NDArray[np.float32]]
    ceiling: Floats
    block: NDArray[np.int64]
    chosen: Chosen


def main(
    path: Path,
    out: Path,
    report: Report,
    *,
    genes: int = GENES,
    sections: list[str] | None = None,
    epochs: int = EPOCHS,
    seeds: int = SEEDS,
) -> dict[str, Any]:
    """Run the trial, print its tables, and write them under `out`.

    Args:
        path: the her2st folder (counts, images, spots).
        out: study, features, ``per_gene.csv`` and ``trial.json`` are written here; what is there
            from a run before is used again.
        genes: most counted genes of the training sections.
        sections: hold out only these.
        epochs: longest training that inner validation may choose.
        seeds: members of the ensemble.

    Returns:
        the JSON object that is printed last.
    """
    began = time.perf_counter()
    given = _sections(path, out, report)
    names = [s.slide_code for s in given]
    held_out = sections or names
    unknown = sorted(set(held_out) - set(names))
    if unknown or len(names) < 3:
        raise InputError(
            "trial.sections",
            str(path),
            f"It has the sections {', '.join(names)}.",
            "Hold out one of these; three sections are needed at least.",
        )
    images = _images(given, out, report)
    folds = []
    for code in held_out:
        report.stage(f"Holding out {code}")
        folds.append(_fold(code, given, images, genes, epochs, seeds, report))
    result = _report(folds, out)
    result["seconds"] = round(time.perf_counter() - began, 1)
    (out / "trial.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result), flush=True)
    return result


def _sections(path: Path, out: Path, report: Report) -> list[SectionInput]:
    """The sections as slides and cell tables, through the same import as any study."""
    from ml.io.store import content_hash
    from ml.io.study import run_import

    study = out / "study"
    listing = study / "import.json"
    if not listing.exists():
        study.mkdir(parents=True, exist_ok=True)
        found = run_import({"format": "her2st"}, {"path": str(path)}, study, report)
        listing.write_text(json.dumps(found))
    return [
        SectionInput(
            study / slide["file"],
            study / slide["cells"]["path"],
            slide["code"],
            slide["patient"],
            "train",
            float(slide["info"]["mpp"]),
            content_hash(study / slide["file"])[0],
            content_hash(study / slide["cells"]["path"])[0],
        )
        for slide in json.loads(listing.read_text())["slides"]
        if slide["cells"]
    ]


def _tables(given: list[SectionInput], genes: int) -> Tables:
    return read_tables(given, max_genes=genes, scale_over="table")


def _config(tables: Tables, seeds: int) -> ModelConfig:
    architecture = replace(ARCHITECTURE, rank=max(RANKS), members=seeds)
    config = model_config(tables, "efficientnet_lite0", architecture)
    return replace(config, scale_over="table", provenance={"trial": "her2st"})


def _images(given: list[SectionInput], out: Path, report: Report) -> dict[str, Any]:
    """Image features of every section; they do not depend on what is held out."""
    report.stage("Image features")
    tables = _tables(given, 1)
    # Every section is held out once: no two may show the same tissue.
    pictures = pictures_of(tables.sections)["train"]
    audit_images({picture.code: [picture] for picture in pictures}, LABEL)
    sections = read_images(tables, _config(tables, 1), out, report)
    return {section.code: section.images for section in sections}


def _fold(
    code: str,
    given: list[SectionInput],
    images: dict[str, Any],
    genes: int,
    epochs: int,
    seeds: int,
    report: Report,
) -> Fold:
    parts = [replace(s, part="test" if s.slide_code == code else "train") for s in given]
    audit(Unit(s.slide_code, s.patient, s.part, s.slide_sha256) for s in parts)
    tables = _tables(parts, genes)
    config = _config(tables, seeds)
    sections = [
        Section(
            s.given.slide_code,
            s.given.patient,
            s.given.part,
            s.xy_um,
            s.counts,
            s.totals,
            images[s.given.slide_code],
        )
        for s in tables.sections
    ]
    chosen = _choose([s for s in sections if s.part == "train"], config, epochs, report)
    report.log(
        f"inner validation: windows up to {chosen.widest:g} spots, {chosen.rank} programmes, "
        f"{chosen.epochs} epochs (Pearson {chosen.pcc:.3f} on training sections left out)"
    )
    seen, narrowed = _looking(sections, config, chosen.widest)
    start = build(_with_rank(narrowed, chosen.rank), [s for s in seen if s.part == "train"])
    _train(start, None, replace(SETTINGS, epochs=epochs, stop_after=chosen.epochs), report)
    past = Corpus([s for s in seen if s.part == "test"], narrowed)
    # The baselines see all windows, whatever inner validation chose for PAST.
    plain = build(config, [s for s in sections if s.part == "train"], penalty=1.0)
    test = Corpus([s for s in sections if s.part == "test"], config)
    measured = test.all_expression()
    mean = np.broadcast_to(start.train.expression_moments()[0], measured.shape)
    return Fold(
        code, config.vocabulary.symbols, measured,
        {
            "PAST": past.predict(start.model),
            "frozen-encoder ridge": frozen_ridge(plain.model, plain.train).predict(test),
            "colour ridge": colour_ridge(plain.model, plain.train).predict(test),
            "mean": mean,
        },
        ceiling(test), slide_blocks(test, BLOCK_UM["spot"]), chosen,
    )  # fmt: skip


def _looking(
    sections: list[Section], config: ModelConfig, widest: float
) -> tuple[list[Section], ModelConfig]:
    """The sections and the config with windows up to `widest` spot diameters only."""
    assert config.features is not None and config.spot_diameter_um is not None
    features, columns = config.features.up_to(widest * config.spot_diameter_um)
    return (
        [replace(s, images=cast(NDArray[np.float16], s.images)[:, columns]) for s in sections],
        replace(config, features=features),
    )


def _with_rank(config: ModelConfig, rank: int) -> ModelConfig:
    return replace(config, architecture=replace(config.architecture, rank=rank))


def _train(start: Start, validation: Corpus | None, settings: Settings, report: Report) -> Trainer:
    def begin(member: Member) -> None:
        set_start(member, start.train, start.loadings, start.ridge)

    quiet = _Quiet(report)
    trainer = Trainer(
        start.model, phases(start.model, start.train, validation, settings, quiet),
        settings.optimisation, begin, None, quiet, "trial", settings.seed,
    )  # fmt: skip
    trainer.run()
    return trainer


def _choose(training: list[Section], config: ModelConfig, epochs: int, report: Report) -> Chosen:
    """Windows, rank and epochs with the best Pearson, each training section left out in turn.

    Windows and rank are compared at the linear start, epochs then by training from it.
    """
    single = replace(config, architecture=replace(config.architecture, members=1))
    linear: dict[tuple[float, int], float] = {}
    for widest in WIDEST:
        seen, narrowed = _looking(training, single, widest)
        start = build(narrowed, seen, penalty=1.0)
        reached = left_out_pcc(start.model, start.train, RANKS)
        linear |= {(widest, rank): pcc for rank, pcc in reached.items()}
    report.log(
        "inner Pearson of the linear start: "
        + ", ".join(f"{w:g} spots/{r} programmes {v:.3f}" for (w, r), v in linear.items())
    )
    widest, rank = max(linear, key=lambda choice: linear[choice])
    seen, narrowed = _looking(training, single, widest)
    curve = np.zeros(epochs + 1)
    for left_out in seen:
        start = build(_with_rank(narrowed, rank), [s for s in seen if s is not left_out])
        settings = replace(SETTINGS, epochs=epochs, patience=epochs + 1)
        trainer = _train(start, Corpus([left_out], narrowed), settings, report)
        curve += np.array([r["validation_pcc"] for r in trainer.history]) / len(seen)
    report.log("inner Pearson by epoch: " + " ".join(f"{v:.3f}" for v in curve))
    best = int(np.argmax(curve))
    return Chosen(widest, rank, best, float(curve[best]))


class _Quiet:
    """Passes on only whether to stop: dozens of small trainings would drown the tables."""

    def __init__(self, report: Report) -> None:
        self.should_stop = report.should_stop

    def stage(self, name: str) -> None: ...

    def progress(self, share: float) -> None: ...

    def metric(self, name: str, value: float, step: int | None = None) -> None: ...

    def log(self, text: str) -> None: ...


def _report(folds: list[Fold], out: Path) -> dict[str, Any]:
    """Print and write the tables; every gene is scored in all folds or in none."""
    shared = set(folds[0].genes).intersection(*(f.genes for f in folds))
    genes = [g for g in folds[0].genes if g in shared]
    columns = [np.array([f.genes.index(g) for g in genes]) for f in folds]
    reachable = np.mean([f.ceiling[c] for f, c in zip(folds, columns, strict=True)], axis=0)
    group = np.concatenate([np.full(len(f.measured), i) for i, f in enumerate(folds)])
    block = np.concatenate([f.block for f in folds])

    def stacked(values: list[NDArray[np.float32]]) -> Floats:
        return np.concatenate([v[:, c] for v, c in zip(values, columns, strict=True)]).astype(
            np.float64
        )

    measured = stacked([f.measured for f in folds])
    resampling = Resampling(group, block)
    draws: dict[str, Draws] = {
        name: resampling.pearson(stacked([f.predicted[name] for f in folds]), measured)
        for name in PREDICTORS
    }
    pcc = {name: of.found for name, of in draws.items()}
    table = pd.DataFrame({"gene": genes, **pcc, "ceiling": reachable})
    table.sort_values("PAST", ascending=False).to_csv(
        out / "per_gene.csv", index=False, float_format="%.4f"
    )
    differences = compared(
        draws["PAST"], {name: draws[name] for name in ("colour ridge", "frozen-encoder ridge")}, []
    )
    _print(folds, genes, pcc, reachable, differences, cast(pd.DataFrame, table))
    colour, frozen = differences["colour ridge"], differences["frozen-encoder ridge"]
    return {
        "trial": "her2st", "label": LABEL,
        "pcc_median": _round(np.nanmedian(pcc["PAST"])),
        "ridge_pcc_median": _round(np.nanmedian(pcc["colour ridge"])),
        "frozen_ridge_pcc_median": _round(np.nanmedian(pcc["frozen-encoder ridge"])),
        "mean_pcc_median": _round(np.nanmedian(pcc["mean"])),
        "ceiling_pcc_median": _round(np.median(reachable)),
        "difference": _round(colour["difference"]),
        "difference_low": _round(colour["low"]), "difference_high": _round(colour["high"]),
        "p_holm": _round(colour["p_holm"]),
        "frozen_difference": _round(frozen["difference"]),
        "frozen_difference_low": _round(frozen["low"]),
        "frozen_difference_high": _round(frozen["high"]),
        "frozen_p_holm": _round(frozen["p_holm"]),
        "genes": len(genes), "spots": len(measured), "folds": [f.code for f in folds],
    }  # fmt: skip


def _round(value: Any) -> float:
    return round(float(value), 4)


def _print(
    folds: list[Fold],
    genes: list[str],
    pcc: dict[str, Floats],
    reachable: Floats,
    differences: dict[str, dict[str, Any]],
    table: pd.DataFrame,
) -> None:
    print(f"\nher2st, {LABEL}. Research use only – not for diagnosis or treatment.")
    print(
        f"{len(genes)} genes (most counted in the training sections of every fold), "
        f"{sum(len(f.measured) for f in folds)} spots, sections "
        f"{', '.join(f.code for f in folds)} held out in turn."
    )
    print("Pearson per gene, mean over the folds, of log1p(counts per 10,000):\n")
    print(f"{'':24}{'median':>8}{'q1':>8}{'q3':>8}")
    for name, values in {**pcc, "split-half ceiling": reachable}.items():
        s = summary(values)
        print(f"{name:24}{s['pcc_median']:8.3f}{s['pcc_q1']:8.3f}{s['pcc_q3']:8.3f}")
    print("\nDifference of the medians (95 % interval, resampling spatial blocks):")
    for name, of in differences.items():
        print(
            f"PAST − {name:22}{of['difference']:+.3f}  [{of['low']:+.3f}, {of['high']:+.3f}]  "
            f"p {of['p_holm']:.2g} (Holm): {of['verdict']}"
        )
    print("\nTen best genes:")
    best = table.sort_values("PAST", ascending=False).head(10)
    print(best.to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    print("\nChosen on the training sections:")
    for fold in folds:
        print(
            f"{fold.code}: windows up to {fold.chosen.widest:g} spots, "
            f"{fold.chosen.rank} programmes, {fold.chosen.epochs} epochs, "
            f"inner Pearson {fold.chosen.pcc:.3f}"
        )
    print()
