"""Writes what `deploy/evidence.sh` found into the documents: tables between markers, and a figure.

A block begins with ``<!-- evidence:NAME -->`` and ends with ``<!-- /evidence:NAME -->``. Figures in
the documents stand nowhere else, so that none can be older than the run that it came from.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml.errors import InputError
from ml.evaluation.card_text import expression_table, p_text, sentences

DOCUMENTS = ("README.md", "ml/evaluation/README.md", "ml/training/README.md")
FIGURE = "ml/evaluation/expression.svg"
NULL_TWINS = {"permuted": "counts permuted across patients", "shifted": "counts shifted in slides"}


def write_documents(found: Path, root: Path) -> list[str]:
    """Fill the blocks of all documents, and draw the figure.

    Args:
        found: the folder of `deploy/evidence.sh`.
        root: of the repository.

    Returns:
        names of blocks that were left as they are, because what they tell of was not run.

    Raises:
        InputError: ``evidence.missing`` without the demo's report, ``evidence.block`` for a
            document whose markers are not pairs.
    """
    blocks = _blocks(found)
    left: set[str] = set()
    filled: dict[Path, str] = {}
    for name in DOCUMENTS:
        path = root / name
        filled[path], unknown = fill(path.read_text(encoding="utf-8"), blocks, str(path))
        left |= unknown
    for path, text in filled.items():
        path.write_text(text, encoding="utf-8")
    _draw(found / "evaluated" / "evaluation" / "per_gene.csv", root / FIGURE)
    return sorted(left)


def fill(text: str, blocks: dict[str, str], where: str) -> tuple[str, set[str]]:
    """A document with its blocks filled, and the names of those that there is nothing for.

    Raises:
        InputError: ``evidence.block``.
    """
    names = re.findall(r"<!-- evidence:(\S+) -->", text)
    ends = re.findall(r"<!-- /evidence:(\S+) -->", text)
    if names != ends:
        raise InputError(
            "evidence.block", where, f"It opens the blocks {names} and closes {ends}.",
            "Close each block where it ends.",
        )  # fmt: skip
    for name in names:
        if name in blocks:
            opening, closing = f"<!-- evidence:{name} -->", f"<!-- /evidence:{name} -->"
            before, _, rest = text.partition(opening)
            after = rest.partition(closing)[2]
            text = f"{before}{opening}\n{blocks[name].strip()}\n{closing}{after}"
    return text, set(names) - set(blocks)


def _blocks(found: Path) -> dict[str, str]:
    report = _report(found / "evaluated")
    if report is None:
        raise InputError(
            "evidence.missing", str(found), "It holds no report of the demo study.",
            "Run make evidence.",
        )  # fmt: skip
    (evaluation,) = report["evaluations"]
    metrics = evaluation["metrics"]
    blocks = {
        "demo-short": _short(metrics),
        "demo": "\n".join([*expression_table(metrics), *(f"- {s}" for s in sentences(metrics))]),
        "splits": _splits(metrics),
        "robustness": _robustness(metrics),
        "cost": f"The whole report took {report['seconds']:.0f} s and "
        f"{report['peak_memory_gib']:.1f} GiB at most.",
        "card": _indented((found / "evaluated" / "CARD.md").read_text(encoding="utf-8")),
    }
    twins = {name: _report(found / f"evaluated-{name}") for name in NULL_TWINS}
    if all(twins.values()):
        blocks["twins"] = _twins({name: twin for name, twin in twins.items() if twin})
    if (found / "ablations.md").is_file():
        blocks["ablations"] = _table_of((found / "ablations.md").read_text(encoding="utf-8"))
    if (found / "her2st" / "trial.json").is_file():
        blocks["her2st"] = _her2st(json.loads((found / "her2st" / "trial.json").read_text()))
    return blocks


def _report(folder: Path) -> dict[str, Any] | None:
    path = folder / "evaluation" / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _short(metrics: dict[str, Any]) -> str:
    rivals = {n: b for n, b in metrics["baselines"].items() if b["fair"]}
    name = max(rivals, key=lambda n: rivals[n]["pcc_median"])
    best = rivals[name]
    types = metrics["cell_types"]["methods"]
    own, plain = types["probe"], types["appearance"]
    covered = metrics["uncertainty"]["coverage"]
    return (
        f"On the {metrics['patients']} held-out patients of the drawn demo study the median "
        f"Pearson over {metrics['n_genes']} genes is {metrics['pcc_median']:.3f} "
        f"({metrics['pcc_low']:.3f} to {metrics['pcc_high']:.3f}); on its "
        f"{metrics['spatial']['n']} spatially variable genes "
        f"{metrics['spatial']['pcc_median']:.3f}. The best of {len(rivals)} baselines "
        f"({best['title']}) reaches {best['pcc_median']:.3f}: difference "
        f"{best['difference']:+.3f} ({best['low']:+.3f} to {best['high']:+.3f}), "
        f"{best['verdict']}. Half of the counts predict the other half at "
        f"{metrics['ceiling_pcc_median']:.3f}. {covered['level']:.0%} intervals hold "
        f"{covered['overall']:.1%} of the values. Cell types: macro-F1 {own['macro_f1']:.2f}, "
        f"{plain['macro_f1']:.2f} from stain, texture and nuclear shape alone. All of it is drawn: "
        "it says nothing about accuracy on tissue."
    )


def _splits(metrics: dict[str, Any]) -> str:
    lines = ["| left out in turn | median Pearson of one linear probe |", "|---|---|"]
    for name in ("random rows", "blocks", "patients", "sites"):
        of = metrics["splits"].get(name)
        if of and of["pcc_median"] is not None:
            lines.append(f"| {name} | {of['pcc_median']:.3f} |")
    return "\n".join(lines)


def _robustness(metrics: dict[str, Any]) -> str:
    of = metrics["robustness"]
    lines = [
        f"Median Pearson {of['clean']:.3f} on {of['rows']:,} cells of {of['slides']} slides as "
        "they are; change (95 %) when they are changed before the model sees them:",
        "", "| change | level | difference |", "|---|---|---|",
    ]  # fmt: skip
    for name, curve in of["curves"].items():
        lines += [
            f"| {name} ({curve['unit']}) | {p['level']:g} | {p['difference']:+.3f} "
            f"({p['low']:+.3f}, {p['high']:+.3f}) |"
            for p in curve["points"]
        ]
    return "\n".join(lines)


def _twins(twins: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| trained and tested on | median Pearson (quartiles) | genes above chance, FDR 5 % |",
        "|---|---|---|",
    ]
    for name, report in twins.items():
        metrics = report["evaluations"][0]["metrics"]
        lines.append(
            f"| {NULL_TWINS[name]} | {metrics['pcc_median']:.3f} ({metrics['pcc_q1']:.3f} – "
            f"{metrics['pcc_q3']:.3f}) | {metrics['genes_above_chance']} of {metrics['n_genes']} |"
        )
    return "\n".join(lines)


def _table_of(text: str) -> str:
    """The lines of a Markdown table, of a command's whole output."""
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def _her2st(trial: dict[str, Any]) -> str:
    def against(name: str, prefix: str, pcc: float) -> str:
        low, high = trial[f"{prefix}difference_low"], trial[f"{prefix}difference_high"]
        return (
            f"{pcc:.3f} for ridge on {name} (difference {trial[f'{prefix}difference']:+.3f}, "
            f"95 % interval {low:+.3f} to {high:+.3f}, p {p_text(trial[f'{prefix}p_holm'])})"
        )

    frozen = against("the frozen encoder", "frozen_", trial["frozen_ridge_pcc_median"])
    colour = against("stain and texture", "", trial["ridge_pcc_median"])
    return (
        "On the four HER2+ sections of one patient, each held out in turn "
        f"({trial['genes']} genes, {trial['spots']} spots, settings chosen on the training "
        f"sections), the median Pearson over genes is {trial['pcc_median']:.3f}, against {frozen} "
        f"and {colour}; half of the counts predict the other half at "
        f"{trial['ceiling_pcc_median']:.2f}. That is one patient: it says nothing about another."
    )


def _indented(card: str) -> str:
    """A card as a quotation, so that its headings are not the document's."""
    return "\n".join(f"> {line}".rstrip() for line in card.strip().splitlines())


def _draw(per_gene: Path, out: Path) -> None:
    """Boxes of Pearson over the genes, of the model, its baselines and the ceiling."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "evidence"  # the same figure is the same file
    import matplotlib.pyplot as plt

    table = pd.read_csv(per_gene)
    names = {"pcc": "PAST", "ceiling_pcc": "ceiling"} | {
        c: c.removesuffix("_pcc").replace("_", " ")
        for c in table.columns if c.endswith("_pcc") and c != "ceiling_pcc"
    }  # fmt: skip
    values = {
        label: table[column].to_numpy(float)[np.isfinite(table[column].to_numpy(float))]
        for column, label in names.items()
    }
    order = sorted(values, key=lambda label: float(np.median(values[label])))
    figure, axes = plt.subplots(figsize=(7, 0.42 * len(order) + 0.9))
    boxes = axes.boxplot(
        [values[label] for label in order], orientation="horizontal", tick_labels=order,
        showfliers=False, patch_artist=True, widths=0.6,
    )  # fmt: skip
    colours = {"PAST": "#0b5870", "ceiling": "#e69f00", "neighbours": "#e69f00"}
    for box, label in zip(boxes["boxes"], order, strict=True):
        box.set_facecolor(colours.get(label, "#c3cdd3"))
    axes.axvline(0, color="#46555f", linewidth=0.8)
    axes.set_xlabel("Pearson per gene within held-out slides (drawn data)")
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)
