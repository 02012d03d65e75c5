/** A model version: scores per gene, promotion, settings. */
import { byId, element, pageData } from "../shared/dom";
import { formatDuration, formatFixed, formatNumber } from "../shared/format";
import { onApiSubmit } from "../shared/forms";
import { compareValues, sortButton, type Direction } from "../shared/sortable";

type Score = Record<string, number | string | null>;

interface Evaluation {
  id: number;
  part: string;
  genes: Score[];
}

interface ModelPage {
  model: { config: unknown };
  evaluations: Evaluation[];
  promote_url: string;
}

const LABELS: Record<string, string> = {
  gene: "Gene",
  pcc: "Pearson",
  scc: "Spearman",
  ceiling_pcc: "Ceiling",
};

function labelOf(column: string): string {
  return LABELS[column] ?? column.replace(/_pcc$/, "").replaceAll("_", " ");
}

class GeneTable {
  private column = "pcc";
  private direction: Direction = "descending";

  constructor(private readonly evaluations: Evaluation[]) {
    byId("evaluation").addEventListener("change", () => this.build());
    byId("gene-filter").addEventListener("input", () => this.fill());
    this.build();
  }

  /** The rows of the chosen evaluation. A file may hold several parts. */
  private get scores(): Score[] {
    const id = Number(byId<HTMLSelectElement>("evaluation").value);
    const evaluation = this.evaluations.find((one) => one.id === id);
    return evaluation?.genes.filter(({ part }) => (part ?? evaluation.part) === evaluation.part) ?? [];
  }

  private get columns(): string[] {
    return Object.keys(this.scores.at(0) ?? {}).filter((column) => column !== "part");
  }

  private build(): void {
    const heads = this.columns.map((column) => {
      const isText = column === "gene";
      const head = element("th", { class: isText ? undefined : "num", scope: "col" }, labelOf(column));
      sortButton(head, isText ? "ascending" : "descending", (direction) => {
        this.column = column;
        this.direction = direction;
        this.fill();
      });
      if (column === this.column) head.setAttribute("aria-sort", this.direction);
      return head;
    });
    byId<HTMLTableElement>("genes").tHead?.replaceChildren(element("tr", {}, ...heads));
    this.fill();
  }

  private fill(): void {
    const wanted = byId<HTMLInputElement>("gene-filter").value.trim().toLowerCase();
    const all = this.scores;
    const found = all.filter(({ gene }) => String(gene).toLowerCase().includes(wanted));
    found.sort((a, b) => compareValues(a[this.column], b[this.column], this.direction));
    const rows = found.map((score) => {
      const cells = this.columns.map((column) => {
        const value = score[column];
        return typeof value === "number"
          ? element("td", { class: "num" }, formatFixed(value, 3))
          : element("td", {}, value ?? "–");
      });
      return element("tr", {}, ...cells);
    });
    byId<HTMLTableElement>("genes").tBodies[0].replaceChildren(...rows);
    byId("gene-count").textContent = `${formatNumber(found.length)} of ${formatNumber(all.length)} genes`;
  }
}

export function start(): void {
  const page = pageData<ModelPage>();
  if (page.evaluations.length > 0) new GeneTable(page.evaluations);
  byId("config").textContent = JSON.stringify(page.model.config, null, 2);
  for (const span of document.querySelectorAll<HTMLElement>("[data-seconds]")) {
    if (span.dataset.seconds) span.textContent = formatDuration(Number(span.dataset.seconds));
  }
  const form = document.querySelector<HTMLFormElement>("#promote");
  if (!form) return;
  const body = (): unknown => ({ reason: byId<HTMLTextAreaElement>("reason").value });
  onApiSubmit(form, page.promote_url, body, () => location.reload());
}
