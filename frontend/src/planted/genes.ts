/** The table of planted genes: sorted by a column, filtered by link and by name. */
import { byId, element } from "../shared/dom";
import { formatFixed, formatNumber } from "../shared/format";
import { compareValues, sortButton, type Direction } from "../shared/sortable";
import type { PlantedGene } from "./types";

type Column = "symbol" | "link" | "follows" | "possible" | "found" | "share";

const HEADS: Record<Column, string> = {
  symbol: "Gene",
  link: "Linked to",
  follows: "Follows",
  possible: "Possible",
  found: "Found",
  share: "Share",
};
const IN_WORDS: Column[] = ["symbol", "link", "follows"];

/** Genes that pass both filters, in the order asked for. */
export function chosenGenes(
  genes: PlantedGene[],
  { text, link }: { text: string; link: string },
  column: Column,
  direction: Direction,
): PlantedGene[] {
  const wanted = text.trim().toLowerCase();
  return genes
    .filter((gene) => !link || gene.link === link)
    .filter(({ symbol, follows }) => `${symbol} ${follows}`.toLowerCase().includes(wanted))
    .sort((a, b) => compareValues(a[column], b[column], direction));
}

function cellText(gene: PlantedGene, column: Column): string {
  const value = gene[column];
  if (value === null) return "–";
  if (typeof value === "string") return value;
  return column === "share" ? `${formatFixed(value * 100, 0)} %` : formatFixed(value, 2);
}

export class GeneTable {
  private column: Column = "possible";
  private direction: Direction = "descending";
  private readonly columns: Column[];
  private readonly link = byId<HTMLSelectElement>("link-filter");
  private readonly text = byId<HTMLInputElement>("gene-filter");

  constructor(private readonly genes: PlantedGene[]) {
    const scored = genes.some(({ found }) => found !== null);
    this.columns = [...IN_WORDS, "possible", ...(scored ? (["found", "share"] as const) : [])];
    const heads = this.columns.map((column) => this.head(column));
    byId<HTMLTableElement>("genes").tHead?.replaceChildren(element("tr", {}, ...heads));
    this.link.addEventListener("change", () => this.fill());
    this.text.addEventListener("input", () => this.fill());
    this.fill();
  }

  private head(column: Column): HTMLTableCellElement {
    const inWords = IN_WORDS.includes(column);
    const head = element("th", { scope: "col", class: inWords ? undefined : "num" }, HEADS[column]);
    sortButton(head, inWords ? "ascending" : "descending", (direction) => {
      this.column = column;
      this.direction = direction;
      this.fill();
    });
    if (column === this.column) head.setAttribute("aria-sort", this.direction);
    return head;
  }

  private fill(): void {
    const filter = { text: this.text.value, link: this.link.value };
    const found = chosenGenes(this.genes, filter, this.column, this.direction);
    byId<HTMLTableElement>("genes").tBodies[0].replaceChildren(...found.map((g) => this.row(g)));
    byId("gene-count").textContent =
      `${formatNumber(found.length)} of ${formatNumber(this.genes.length)} genes`;
  }

  private row(gene: PlantedGene): HTMLTableRowElement {
    const cells = this.columns.map((column) => {
      const text = cellText(gene, column);
      if (column === "found" && gene.not_predictable) {
        const said = { class: "badge", title: "The model itself says so, from its validation part" };
        return element("td", { class: "num" }, element("span", said, "not predictable"), ` ${text}`);
      }
      return element("td", { class: IN_WORDS.includes(column) ? undefined : "num" }, text);
    });
    return element("tr", {}, ...cells);
  }
}
