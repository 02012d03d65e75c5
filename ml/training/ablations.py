"""What each part of the model brings: the same training without it, and how far it falls behind.

Everything else stays as it is: data, split, seed, epochs, image features. Variants are compared on
the validation part, which chose none of them; the test part is left to the model that is kept.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.errors import InputError
from ml.evaluation.expression import BLOCK_UM, resampling_of
from ml.models import checkpoint
from ml.models.past import PAST
from ml.report import ConsoleReport, Report
from ml.training.config_file import read_config
from ml.training.corpus import Corpus
from ml.training.prepare import SectionInput, read_images, read_tables
from ml.training.run import run
from ml.training.train_file import study_params, study_sections

FULL = "full"
_OFF: dict[str, Any] = {"align": {"epochs": 0}}
# Contrast on every row with its neighbours takes ten times as long as expression: the rows of three
# epochs are four times those that the alignment of the whole model draws.
_JOINT_EPOCHS = 3
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {},
    "no neighbourhood": {"architecture": {"neighbours": 0}},
    "regression only": {"settings": _OFF},
    "contrast only": {
        "epochs": _JOINT_EPOCHS,
        "settings": {"losses": {"expression": 0.0, "counts": 0.0}},
    },
    "all losses at once": {"epochs": _JOINT_EPOCHS, "settings": {"joint": True}},
    "soft targets": {"settings": {"losses": {"soft_targets": True}}},
    "no pad mask": {"architecture": {"pad_mask": False}},
    "no masked genes": {"settings": {"losses": {"masked_gene": 0.0}}},
    "squared error alone": {"settings": {"losses": {"counts": 0.0}, **_OFF}},
    "negative binomial alone": {"settings": {"losses": {"expression": 0.0, "counts": 1.0}, **_OFF}},
}
"""Parameters of the train job that leave one part out. Where the shared space is not concerned, it
is not trained."""
COLUMNS = (
    "variant", "validation_pcc", "difference", "difference_low", "difference_high",
    "image_to_gene_r10", "gene_to_image_r10", "chance_r10", "seconds",
)  # fmt: skip


def ablate(
    sections: list[dict[str, Any]],
    params: dict[str, Any],
    out: Path,
    report: Report,
    variants: tuple[str, ...] = tuple(VARIANTS),
) -> list[dict[str, Any]]:
    """Train every variant and compare it with the whole model.

    Args:
        sections: as the train job takes them; some must be ``validation``.
        params: of the train job, the same for all variants.
        out: gets a folder per variant, and ``ablations.csv``; variants that are there are kept.
        variants: names in `VARIANTS`; the whole model is always among them.

    Returns:
        rows of the table: see `COLUMNS`. The difference is to the whole model in the median over
        genes of the Pearson correlation within slides, with a 95 % interval as
        `ml.evaluation.bootstrap.Draws.minus` makes it.
    """
    names = (FULL, *(name for name in variants if name != FULL))
    rows: list[dict[str, Any]] = []
    whole: NDArray[np.float32] | None = None
    for name in names:
        report.log(f"Variant: {name}")
        folder = out / name.replace(" ", "-")
        asked = merged(params, VARIANTS[name])
        metrics = _metrics(sections, asked, folder, out / "work", report)
        model = checkpoint.load(folder / "model")
        held_out, predicted = _predicted(sections, asked, model, out / "work", report)
        whole = predicted if whole is None else whole
        row = {"variant": name, **_compared(held_out, predicted, whole)}
        found = metrics["validation"].get("retrieval", {}) if metrics["alignment"] else {}
        rows.append(row | {c: found.get(c) for c in COLUMNS[5:8]} | {"seconds": metrics["seconds"]})
        _write(out / "ablations.csv", rows)
    return rows


def merged(params: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Parameters with others over them, dict by dict."""
    found = dict(params)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], value) if both else value
    return found


def _metrics(
    sections: list[dict[str, Any]],
    params: dict[str, Any],
    folder: Path,
    work: Path,
    report: Report,
) -> dict[str, Any]:
    """Metrics of a variant, trained now unless its folder has them for the same parameters."""
    kept = folder / "ablation.json"
    asked = {"params": params, "tables": sorted(s["table_sha256"] for s in sections)}
    if kept.exists() and (found := json.loads(kept.read_text()))["asked"] == asked:
        return dict(found["metrics"])
    folder.mkdir(parents=True, exist_ok=True)
    result = run(params, {"sections": sections, "work": str(work)}, folder, report)
    settings = result["config"]["settings"]
    losses = settings["losses"]
    together = settings["joint"] or not (losses["expression"] or losses["counts"])
    metrics = {
        "validation": result["metrics"]["validation"],
        "seconds": result["metrics"]["seconds"],
        "alignment": result["metrics"]["alignment_epochs"] > 0 or together,
    }
    checkpoint.write_json(kept, {"asked": asked, "metrics": metrics})
    return metrics


def _predicted(
    sections: list[dict[str, Any]],
    params: dict[str, Any],
    model: PAST,
    work: Path,
    report: Report,
) -> tuple[Corpus, NDArray[np.float32]]:
    """The validation part and what a variant predicts for it."""
    given = [SectionInput.of(section) for section in sections]
    only = {k: params[k] for k in ("max_genes", "scale_over") if params.get(k) is not None}
    tables = read_tables(given, **only)
    tables = replace(tables, sections=[s for s in tables.sections if s.given.part == "validation"])
    held_out = Corpus(read_images(tables, model.config, work, report), model.config)
    return held_out, held_out.predict(model)


def _compared(
    held_out: Corpus, predicted: NDArray[np.float32], whole: NDArray[np.float32]
) -> dict[str, float]:
    resampling = resampling_of(held_out, BLOCK_UM["cell"])
    measured = held_out.all_expression()
    draws = resampling.pearson(predicted, measured)
    found = {"validation_pcc": float(np.nanmedian(draws.found))}
    if predicted is whole:
        return {**found, "difference": 0.0, "difference_low": 0.0, "difference_high": 0.0}
    difference, low, high = draws.minus(resampling.pearson(whole, measured))
    return {**found, "difference": difference, "difference_low": low, "difference_high": high}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table for people."""
    lines = [
        "| variant | validation PCC | difference to full (95 %) | image→gene R@10 | "
        "gene→image R@10 | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        gap = (
            "" if row["variant"] == FULL
            else f"{row['difference']:+.3f} ({row['difference_low']:+.3f}, "
                 f"{row['difference_high']:+.3f})"
        )  # fmt: skip
        recall = ["–" if row[c] is None else f"{row[c]:.3f}" for c in COLUMNS[5:7]]
        lines.append(
            f"| {row['variant']} | {row['validation_pcc']:.3f} | {gap} | {recall[0]} | "
            f"{recall[1]} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def ablate_file(path: Path, variants: tuple[str, ...] | None) -> str:
    """The table of a training's config on a study, whose test part takes no part.

    Raises:
        InputError: ``ablate.no_validation``, ``ablate.variant``, and those of the config.
    """
    config = read_config(path)
    sections = study_sections(config) if config.data.study else []
    if not any(section["part"] == "validation" for section in sections):
        raise InputError(
            "ablate.no_validation",
            f"{path}, data",
            "It names no study with a validation part, on which variants could be compared.",
            "Give `study` and `validation` in [data].",
        )
    for name in variants or ():
        if name not in VARIANTS:
            raise InputError(
                "ablate.variant",
                "--variants",
                f"There is no variant {name!r}.",
                f"Choose among: {', '.join(VARIANTS)}.",
            )
    sections = [section for section in sections if section["part"] != "test"]
    out, params = config.out / "ablations", study_params(config)
    return markdown(ablate(sections, params, out, ConsoleReport(), variants or tuple(VARIANTS)))
