/** The table of scores per gene: sorted by any column, beside a baseline of choice. */
import { byId, element } from "../shared/dom";
import { formatFixed, formatNumber } from "../shared/format";
import { compareValues, sortButton, type Direction } from "../shared/sortable";
import type { EvaluationPage, Score } from "./types";

interface Column {
  name: string;
  label: string;
  title?: string;
}

const COLUMNS: Column[] = [
  { name: "gene", label: "Gene" },
  { name: "pcc", label: "Pearson (95 %)" },
  { name: "difference", label: "minus baseline" },
  { name: "ceiling_pcc", label: "Ceiling", title: "What two halves of the same counts reach" },
  { name: "scc", label: "Spearman" },
  { name: "ssim", label: "SSIM", title: "Structural similarity of the maps" },
  { name: "rvd", label: "RVD", title: "Relative variation distance: 0 varies as measured, 1 not at all" },
  { name: "moran", label: "Moran’s I", title: "Spatial pattern on the training slides" },
  { name: "q", label: "q", title: "False discovery rate of Pearson being 0" },
];

export class GeneTable {
  private column = "pcc";
  private direction: Direction = "descending";
  private readonly beside = byId<HTMLSelectElement>("beside");

  constructor(
    private readonly page: EvaluationPage,
    private readonly choose: (gene: string) => void,
  ) {
    const there = (key: string): boolean => page.genes.some((gene) => typeof gene[`${key}_pcc`] === "number");
    for (const [key, title] of Object.entries(page.titles)) {
      if (there(key)) this.beside.append(element("option", { value: key }, title));
    }
    const best = page.genes.length > 0 && there("frozen_ridge") ? "frozen_ridge" : null;
    if (best) this.beside.value = best;
    this.beside.addEventListener("change", () => this.fill());
    byId("gene-filter").addEventListener("input", () => this.fill());
    this.head();
    this.fill();
  }

  private get columns(): Column[] {
    const first = this.page.genes.at(0) ?? {};
    return COLUMNS.filter(({ name }) => name === "difference" || name in first);
  }

  private value(gene: Score, name: string): number | string | null {
    if (name !== "difference") return gene[name] ?? null;
    const [own, other] = [gene.pcc, gene[`${this.beside.value}_pcc`]];
    return typeof own === "number" && typeof other === "number" ? own - other : null;
  }

  private head(): void {
    const cells = this.columns.map(({ name, label, title }) => {
      const cell = element("th", { class: name === "gene" ? undefined : "num", scope: "col", title }, label);
      sortButton(cell, name === "gene" || name === "q" ? "ascending" : "descending", (direction) => {
        this.column = name;
        this.direction = direction;
        this.fill();
      });
      if (name === this.column) cell.setAttribute("aria-sort", this.direction);
      return cell;
    });
    byId<HTMLTableElement>("genes").tHead?.replaceChildren(element("tr", {}, ...cells));
  }

  private fill(): void {
    const wanted = byId<HTMLInputElement>("gene-filter").value.trim().toLowerCase();
    const all = this.page.genes;
    const found = all.filter(({ gene }) => String(gene).toLowerCase().includes(wanted));
    found.sort((a, b) =>
      compareValues(this.value(a, this.column), this.value(b, this.column), this.direction),
    );
    byId<HTMLTableElement>("genes").tBodies[0].replaceChildren(...found.map((gene) => this.row(gene)));
    byId("gene-count").textContent = `${formatNumber(found.length)} of ${formatNumber(all.length)} genes`;
  }

  private row(gene: Score): HTMLTableRowElement {
    const symbol = String(gene.gene);
    const cells = this.columns.map(({ name }) => {
      if (name === "gene") return element("td", {}, this.link(symbol), gene.spatial === 1 && spatialBadge());
      const value = this.value(gene, name);
      if (typeof value !== "number") return element("td", { class: "num muted" }, "not defined");
      const text = formatFixed(value, name === "q" ? 4 : 3);
      const interval = name === "pcc" ? intervalText(gene) : "";
      return element(
        "td",
        { class: "num nowrap" },
        text,
        interval && element("span", { class: "muted small" }, interval),
      );
    });
    return element("tr", { "data-gene": symbol }, ...cells);
  }

  private link(symbol: string): HTMLElement | string {
    if (!this.page.full) return symbol;
    const button = element("button", { type: "button", class: "link" }, symbol);
    button.addEventListener("click", () => this.choose(symbol));
    return button;
  }
}

function spatialBadge(): HTMLElement {
  return element("span", { class: "badge badge-spatial", title: "Spatially variable on training slides" }, "SVG");
}

/** " (−0.05 to 0.08)"; empty where the scores have no interval. */
export function intervalText({ pcc_low: low, pcc_high: high }: Score): string {
  return typeof low === "number" && typeof high === "number"
    ? ` (${formatFixed(low, 2)} to ${formatFixed(high, 2)})`
    : "";
}
