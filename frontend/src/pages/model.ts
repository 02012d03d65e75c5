/** A model version: scores per gene, promotion, settings. */
import { byId, element, pageData } from "../shared/dom";
import { formatDuration, formatFixed, formatNumber } from "../shared/format";
import { onApiSubmit } from "../shared/forms";
import { NOT_PREDICTABLE, validationText, type NotPredictable } from "../shared/scores";
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
  not_predictable: Record<string, NotPredictable | undefined>;
  promote_url: string;
}

const LABELS: Record<string, string> = {
  gene: "Gene",
  pcc: "Pearson",
  scc: "Spearman",
  ceiling_pcc: "Ceiling",
};
/** Shown within the column of the score they are the interval of. */
const INTERVAL = ["pcc_low", "pcc_high"];

function labelOf(column: string): string {
  return LABELS[column] ?? column.replace(/_pcc$/, "").replaceAll("_", " ");
}

class GeneTable {
  private column = "pcc";
  private direction: Direction = "descending";

  constructor(
    private readonly evaluations: Evaluation[],
    private readonly refused: ModelPage["not_predictable"],
  ) {
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
    const hidden = ["part", ...INTERVAL];
    return Object.keys(this.scores.at(0) ?? {}).filter((column) => !hidden.includes(column));
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
      return element("tr", {}, ...this.columns.map((column) => this.cell(score, column)));
    });
    byId<HTMLTableElement>("genes").tBodies[0].replaceChildren(...rows);
    byId("gene-count").textContent = `${formatNumber(found.length)} of ${formatNumber(all.length)} genes`;
  }

  private cell(score: Score, column: string): HTMLTableCellElement {
    const value = score[column];
    if (column === "gene") {
      const gene = String(value);
      const refused = this.refused[gene];
      const badge =
        refused &&
        element("span", { class: "badge badge-warning", title: validationText(refused) }, NOT_PREDICTABLE);
      return element("td", {}, gene, badge && " ", badge);
    }
    if (typeof value !== "number") return element("td", {}, value ?? "–");
    const interval = column === "pcc" ? intervalText(score) : "";
    return element(
      "td",
      { class: "num nowrap" },
      formatFixed(value, 3),
      interval && element("span", { class: "muted small" }, interval),
    );
  }
}

/** "(−0.05 to 0.08)"; empty where the scores have no interval. */
export function intervalText(score: Score): string {
  const [low, high] = INTERVAL.map((name) => score[name]);
  return typeof low === "number" && typeof high === "number"
    ? ` (${formatFixed(low, 2)} to ${formatFixed(high, 2)})`
    : "";
}

export function start(): void {
  const page = pageData<ModelPage>();
  if (page.evaluations.length > 0) new GeneTable(page.evaluations, page.not_predictable);
  byId("config").textContent = JSON.stringify(page.model.config, null, 2);
  for (const span of document.querySelectorAll<HTMLElement>("[data-seconds]")) {
    if (span.dataset.seconds) span.textContent = formatDuration(Number(span.dataset.seconds));
  }
  const form = document.querySelector<HTMLFormElement>("#promote");
  if (!form) return;
  const body = (): unknown => ({ reason: byId<HTMLTextAreaElement>("reason").value });
  onApiSubmit(form, page.promote_url, body, () => location.reload());
}
