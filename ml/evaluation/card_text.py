"""Model and data cards (Mitchell et al., FAT* 2019; Pushkarna et al., FAccT 2022) from records.

Nothing in a card is written by hand for one model: it says what the records say, and says so where
they are silent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOTICE = "Research use only – not for diagnosis or treatment."
UNKNOWN = "not recorded"
INTENDED = (
    "Exploring where in a tissue genes are likely expressed, and generating hypotheses for "
    "measurement, by people who can judge both. Not for decisions about patients."
)
LIMITS = (
    "Predictions are of the genes on the model's panel only, in tissue and stain like that of its "
    "training slides; slides unlike them are declined or flagged.",
    "A predicted value is an expectation given how a cell looks. It is no measurement, and genes "
    "called not predictable are noise around a mean.",
    "Scores are within slides: they say where on a slide a gene is high, not how slides differ.",
)
Document = Mapping[str, Any]


def model_markdown(record: Document) -> str:
    """A model card.

    Args:
        record: name, config (the model's), evaluations (part, metrics as `ml.evaluation.run` gives
            them), audit, sections (slide_code, patient, part, slide_sha256, table_sha256); and
            where they are known sha256, status, trained_at, trained_by, study, synthetic, looks.
    """
    config, provenance = record["config"], record["config"].get("provenance", {})
    encoder = provenance.get("encoder") or {}
    symbols = config.get("vocabulary", {}).get("symbols")
    lines = [f"# {record['name']}", "", f"**{NOTICE}**", ""]
    if record.get("synthetic"):
        lines += ["Trained on synthetic data: drawn slides and simulated expression.", ""]
    lines += _facts(
        {
            "What it does": f"predicts log1p counts per 10,000 of "
            f"{len(symbols) if symbols else record.get('n_genes', UNKNOWN)} genes per "
            f"{config.get('row_kind', 'row')} from H&E",
            "Weights": record.get("sha256"),
            # Files know nothing of these.
            **({"Status": record["status"]} if "status" in record else {}),
            **({"Trained": _when(record)} if "trained_at" in record else {}),
            **({"Study": record["study"]} if "study" in record else {}),
            "Image encoder": encoder.get("name") or config.get("encoder"),
            "Encoder's licence": encoder.get("licence"),
            "Encoder's weights": encoder.get("weights"),
            "Software": f"PAST {provenance.get('past', UNKNOWN)}, "
            f"torch {provenance.get('torch', UNKNOWN)}, seed {provenance.get('seed', UNKNOWN)}",
        }
    )
    lines += ["", "## Intended use", "", INTENDED, ""]
    lines += _trained_on(record)
    lines += _scores(record)
    lines += ["## Limits", "", *(f"- {limit}" for limit in LIMITS)]
    lines += [
        f"- {problem}"
        for e in record["evaluations"]
        for problem in e["metrics"].get("problems", ())
    ]
    return "\n".join(lines) + "\n"


def _when(record: Document) -> str | None:
    if not record.get("trained_at"):
        return None
    by = f" by {record['trained_by']}" if record.get("trained_by") else ""
    return f"{record['trained_at']}{by}"


def _facts(facts: Mapping[str, Any]) -> list[str]:
    return [
        "| | |",
        "|---|---|",
        *(f"| {k} | {v if v not in (None, '') else UNKNOWN} |" for k, v in facts.items()),
    ]


def _trained_on(record: Document) -> list[str]:
    sections: Sequence[Document] = record.get("sections", ())
    lines = ["## Data", ""]
    if not sections:
        return [*lines, f"Slides: {UNKNOWN}.", ""]
    lines += ["| part | patients | slides |", "|---|---|---|"]
    for part in ("train", "validation", "test"):
        own = [s for s in sections if s["part"] == part]
        if own:
            lines.append(f"| {part} | {len({s['patient'] for s in own})} | {len(own)} |")
    audit = record.get("audit") or {}
    lines += ["", f"What is held out: {audit.get('scope') or UNKNOWN}."]
    images = audit.get("images")
    if images:
        lines.append(
            f"Audit: no patient, slide file or fitted statistic crosses the parts; of "
            f"{images['pairs']} pairs of pictures the most alike reach "
            f"{images['highest_similarity']:.2f} (limit {images['limit']})."
        )
    if record.get("looks") is not None:
        lines.append(f"Looks at the test part so far: {record['looks']}.")
    return [*lines, ""]


def _scores(record: Document) -> list[str]:
    lines = ["## Scores", ""]
    if not record["evaluations"]:
        return [*lines, "No held-out slides: this version was not scored.", ""]
    for evaluation in record["evaluations"]:
        lines += [f"### Part: {evaluation['part']}", "", *expression_table(evaluation["metrics"])]
        lines += [f"- {sentence}" for sentence in sentences(evaluation["metrics"])]
        lines.append("")
    return lines


def expression_table(metrics: Document) -> list[str]:
    """The model beside its baselines, ceiling and null controls, as lines of Markdown."""
    unit = "patients" if metrics.get("resampled") == "patients" else "spatial blocks"
    lines = [
        f"Pearson per gene within slides, median over {_count(metrics['n_genes'])} genes; "
        f"95 % intervals resample {unit} ({_patients(metrics.get('patients'))}, "
        f"{_count(metrics['n_rows'])} rows); p is corrected for the number of baselines (Holm).",
        "",
        "| | median (quartiles) | spatially variable genes | PAST minus it (95 %) | p | |",
        "|---|---|---|---|---|---|",
        f"| **PAST** | **{_number(metrics['pcc_median'])}** {_quartiles(metrics)} | "
        f"{_number(metrics.get('spatial', {}).get('pcc_median'))} | | | |",
    ]
    for name, of in metrics.get("baselines", {}).items():
        gap = (
            ""
            if of.get("difference") is None
            else (f"{of['difference']:+.3f} ({of['low']:+.3f}, {of['high']:+.3f})")
        )
        p = "" if of.get("p_holm") is None else p_text(of["p_holm"])
        verdict = {"ahead": "PAST ahead", "behind": "PAST behind"}.get(of.get("verdict"), "")
        verdict = verdict or ("" if of.get("fair") is False else of.get("verdict", ""))
        lines.append(
            f"| {of.get('title', name)} | {_number(of['pcc_median'])} {_quartiles(of)} | "
            f"{_number(of.get('spatial_pcc_median'))} | {gap} | {p} | {verdict} |"
        )
    lines.append(f"| split-half ceiling | {_number(metrics['ceiling_pcc_median'])} | | | | |")
    for name, of in metrics.get("controls", {}).items():
        lines.append(
            f"| null: rows {name} | {_number(of['pcc_median'])} {_quartiles(of)} | | | | |"
        )
    return [*lines, ""]


def sentences(metrics: Document) -> Iterable[str]:
    """What the other chapters found, a sentence each."""
    if metrics.get("genes_above_chance") is not None:
        yield (
            f"{metrics['genes_above_chance']} of {metrics['n_genes']} genes are predicted above "
            "chance (false discovery rate 5 %)."
        )
    covered = metrics.get("uncertainty", {}).get("coverage")
    if covered:
        each = covered["by_patient"].values()
        yield (
            f"{covered['level']:.0%} intervals cover {covered['overall']:.1%} of values, by "
            f"patient {min(each):.1%} to {max(each):.1%}."
        )
    found = metrics.get("retrieval")
    if found:
        yield (
            f"Retrieval among {found['candidates']} rows of a slide, recall at 10: image to "
            f"expression {found['image_to_gene_r10']:.3f}, back "
            f"{found['gene_to_image_r10']:.3f}, "
            f"chance {found['chance_r10']:.3f}."
        )
    types = metrics.get("cell_types")
    if types:
        own, plain = types["methods"]["probe"], types["methods"]["appearance"]
        yield (
            f"Cell types ({len(types['types'])}): macro-F1 {own['macro_f1']:.3f}, on stain, "
            f"texture and nuclear shape alone {plain['macro_f1']:.3f}."
        )
    robust = metrics.get("robustness")
    if robust:
        worst = min(
            (
                (p["difference"], name, p["level"], curve["unit"])
                for name, curve in robust["curves"].items()
                for p in curve["points"]
            ),
        )
        yield (
            f"Robustness: {robust['clean']:.3f} as scanned; the most harmful change tried is "
            f"{worst[1]} at {worst[2]:g} ({worst[3]}): {worst[0]:+.3f}."
        )


def data_markdown(record: Document) -> str:
    """A data card.

    Args:
        record: name, study (name, source, question, limits, synthetic), row_kind, split, tables
            (slide, patient, part, table_sha256, slide_sha256, and where known site, n_rows, mpp),
            and where known sha256, created_at, n_genes, panel_hash.
    """
    study, tables = record["study"], record["tables"]
    sites = Counter(table["site"] for table in tables if table.get("site"))
    rows = [t["n_rows"] for t in tables if t.get("n_rows") is not None]
    lines = [f"# {record['name']}", "", f"**{NOTICE}**", ""]
    lines += _facts(
        {
            "Study": study["name"],
            "Source and licence": study.get("source"),
            "Synthetic": "yes: drawn and simulated" if study.get("synthetic") else "no",
            "Rows": f"{sum(rows):,} {record['row_kind']}s" if rows else None,
            "Genes": record.get("n_genes"),
            "Panel": record.get("panel_hash"),
            "Patients": len({t["patient"] for t in tables}),
            "Slides": len(tables),
            "Sites": ", ".join(f"{name} ({n} slides)" for name, n in sorted(sites.items())),
            "Resolution": _resolutions(tables),
            "Split": record.get("split"),
            "Frozen": record.get("created_at"),
            "Hash": record.get("sha256"),
        }
    )
    if study.get("limits"):
        lines += ["", "## Limits", "", study["limits"]]
    lines += [
        "",
        "## Slides",
        "",
        "| slide | patient | part | slide sha256 | table sha256 |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {t['slide']} | {t['patient']} | {t['part']} | `{t['slide_sha256'][:12]}` | "
        f"`{t['table_sha256'][:12]}` |"
        for t in tables
    ]
    return "\n".join(lines) + "\n"


def _resolutions(tables: Sequence[Document]) -> str | None:
    found = sorted({round(t["mpp"], 4) for t in tables if t.get("mpp")})
    return f"{', '.join(f'{mpp:g}' for mpp in found)} µm per pixel" if found else None


def p_text(p: float) -> str:
    """A p-value as people write it: never nought."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _patients(count: int | None) -> str:
    return "1 patient" if count == 1 else f"{_count(count)} patients"


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _quartiles(of: Document) -> str:
    if of.get("pcc_q1") is None or of.get("pcc_q3") is None:
        return ""
    return f"({of['pcc_q1']:.3f} – {of['pcc_q3']:.3f})"
