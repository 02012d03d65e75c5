/** The evaluation page: figures, the table of genes, one gene drawn, the job button, the gate. */
import { getJson, postJson } from "../shared/api";
import { byId, element, pageData } from "../shared/dom";
import { draw } from "../shared/figure";
import { formatNumber } from "../shared/format";
import { goToJob, onApiSubmit } from "../shared/forms";
import { makeSortable } from "../shared/sortable";
import { problemBody, toastError } from "../shared/toast";
import { GeneTable } from "./genes";
import { drawMap, range, residual } from "./maps";
import { boxesPlot, curvesPlot, errorsPlot, scatterPlot } from "./plots";
import type { DrawnGene, EvaluationPage } from "./types";

class GeneView {
  private drawn: DrawnGene | null = null;
  private readonly slide = byId<HTMLSelectElement>("gene-slide");

  constructor(private readonly url: string) {
    this.slide.addEventListener("change", () => this.show());
  }

  async load(gene: string): Promise<void> {
    this.drawn = await getJson<DrawnGene>(this.url.replace("GENE", encodeURIComponent(gene)));
    const before = this.slide.value;
    const options = this.drawn.slides.map(({ code, patient }) =>
      element("option", { value: code }, `${code} (${patient})`),
    );
    this.slide.replaceChildren(...options);
    if (this.drawn.slides.some(({ code }) => code === before)) this.slide.value = before;
    for (const row of byId<HTMLTableElement>("genes").tBodies[0].rows) {
      row.classList.toggle("chosen", row.dataset.gene === gene);
    }
    this.show();
  }

  private show(): void {
    const slide = this.drawn?.slides.find(({ code }) => code === this.slide.value);
    if (!this.drawn || !slide) return;
    byId("gene-name").textContent = this.drawn.gene;
    const values = range(slide.measured);
    const off = residual(slide);
    const [low, high] = range(off);
    const far = Math.max(Math.abs(low), Math.abs(high));
    const predicted = range(slide.predicted);
    drawMap(byId<HTMLCanvasElement>("map-measured"), slide, slide.measured, values, "viridis");
    drawMap(byId<HTMLCanvasElement>("map-predicted"), slide, slide.predicted, predicted, "viridis");
    drawMap(byId<HTMLCanvasElement>("map-residual"), slide, off, [-far, far], "diverging");
    draw(byId("plot-scatter"), scatterPlot(slide)).catch(toastError);
    const shown =
      slide.x.length < slide.of ? `${formatNumber(slide.x.length)} of ${formatNumber(slide.of)} rows, evenly` : "all rows";
    byId("gene-note").textContent =
      `${this.drawn.unit}; ${shown}. Colours span the 1st to 99th percentile: measured ` +
      `${formatNumber(values[0], 2)} – ${formatNumber(values[1], 2)}, predicted ` +
      `${formatNumber(predicted[0], 2)} – ${formatNumber(predicted[1], 2)}, difference ±${formatNumber(far, 2)} ` +
      "(orange: more was measured, blue: less).";
    document.documentElement.dataset.gene = this.drawn.gene;
  }
}

function startJob(button: HTMLButtonElement): void {
  const problem = byId("evaluate-problem");
  button.addEventListener("click", () => {
    button.disabled = true;
    problem.replaceChildren();
    postJson<{ url: string }>(button.dataset.url ?? "", {})
      .then(goToJob)
      .catch((error: unknown) => {
        const shown = problemBody(error);
        shown.className = "message message-error";
        problem.replaceChildren(shown);
        button.disabled = false;
      });
  });
}

function gateBody(form: HTMLFormElement): Record<string, unknown> {
  const values = new FormData(form);
  const on = (name: string): boolean => values.get(name) !== null;
  return {
    full_report: on("full_report"),
    median_not_worse: on("median_not_worse"),
    no_baseline_ahead: on("no_baseline_ahead"),
    margin: Number(values.get("margin")),
  };
}

export function start(): void {
  const page = pageData<Partial<EvaluationPage>>();
  makeSortable(document);
  const button = document.querySelector<HTMLButtonElement>("#evaluate");
  if (button) startJob(button);
  const form = document.querySelector<HTMLFormElement>("#gate");
  if (form && page.gate_url) {
    onApiSubmit(form, page.gate_url, () => gateBody(form), () => location.reload());
  }
  if (page.genes) drawAll(page as EvaluationPage);
}

function drawAll(page: EvaluationPage): void {
  const view = page.full ? new GeneView(page.gene_url) : null;
  new GeneTable(page, (gene) => void view?.load(gene).catch(toastError));
  const figures = [draw(byId("plot-boxes"), boxesPlot(page))];
  if (page.robustness) figures.push(draw(byId("plot-robustness"), curvesPlot(page.robustness)));
  if (page.errors) figures.push(draw(byId("plot-errors"), errorsPlot(page.errors)));
  const best = page.genes.at(0)?.gene;
  if (view && best) figures.push(view.load(String(best)));
  Promise.all(figures)
    .catch(toastError)
    .finally(() => (document.documentElement.dataset.evaluation = "ready"));
}
