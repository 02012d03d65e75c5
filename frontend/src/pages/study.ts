/** A study's own page: its figures, its slides, and predictions on those that are chosen. */
import type { Boxes } from "../evaluation/plots";
import { HeldOutPicture, type HeldOut } from "../landing/picture";
import { SlideTable } from "../landing/slides";
import { byId, pageData } from "../shared/dom";
import { formatDuration, formatFixed, formatNumber } from "../shared/format";
import { goToJob, onApiSubmit } from "../shared/forms";
import { makeSortable } from "../shared/sortable";
import { toastError } from "../shared/toast";

interface StudyPage {
  slides_at_first: number;
  predict_url: string;
  figure_url: string;
  survival_url: string;
  picture: HeldOut | null;
  scores: Boxes | null;
}

const boxes = (): HTMLInputElement[] => [
  ...document.querySelectorAll<HTMLInputElement>("input[name=slides]"),
];

function showChosen(): void {
  const count = boxes().filter(({ checked }) => checked).length;
  byId<HTMLButtonElement>("predict-start").disabled = count === 0;
  byId("predict-count").textContent =
    count === 0 ? "No slide chosen." : `${formatNumber(count)} ${count === 1 ? "slide" : "slides"} chosen.`;
}

/** The form is there for those who may predict, once there is a model. */
function bindPrediction(table: SlideTable, url: string): void {
  const form = document.querySelector<HTMLFormElement>("#predict");
  if (!form) return;
  const all = byId<HTMLInputElement>("choose-all");
  all.addEventListener("change", () => {
    for (const row of table.matching) {
      const box = row.querySelector<HTMLInputElement>("input[name=slides]");
      if (box) box.checked = all.checked;
    }
    showChosen();
  });
  byId("slides").addEventListener("change", showChosen);
  showChosen();
  const body = (): unknown => ({
    model: Number(byId<HTMLSelectElement>("predict-model").value),
    slides: boxes().filter(({ checked }) => checked).map(({ value }) => value),
  });
  onApiSubmit(form, url, body, goToJob);
}

function bindHeldOut(url: string): void {
  const form = document.querySelector<HTMLFormElement>("#predict-held-out");
  if (!form) return;
  const body = (): unknown => ({ model: Number(form.dataset.model), slides: [form.dataset.slide] });
  onApiSubmit(form, url, body, goToJob);
}

function localiseMarks(): void {
  for (const mark of document.querySelectorAll<HTMLElement>("[data-percent]")) {
    mark.textContent = `${formatFixed(Number(mark.dataset.percent) * 100, 0)} %`;
  }
  for (const mark of document.querySelectorAll<HTMLElement>("[data-seconds]")) {
    mark.textContent = formatDuration(Number(mark.dataset.seconds));
  }
}

/** The plots' library is large, so it comes after everything that does not need it. */
async function showCurve({ figure_url, survival_url }: StudyPage): Promise<void> {
  const { showStudyCurve } = await import("../landing/survival");
  await showStudyCurve(figure_url, survival_url);
}

async function showScores(scores: Boxes): Promise<void> {
  const [{ draw }, { boxesPlot }] = await Promise.all([
    import("../shared/figure"),
    import("../evaluation/plots"),
  ]);
  await draw(byId("plot-scores"), boxesPlot(scores));
}

export function start(): void {
  const page = pageData<StudyPage>();
  localiseMarks();
  if (document.getElementById("slides")) {
    makeSortable(document);
    bindPrediction(new SlideTable(page.slides_at_first), page.predict_url);
  }
  bindHeldOut(page.predict_url);
  const figures: Promise<void>[] = [];
  if (page.picture) figures.push(new HeldOutPicture(page.picture).start(toastError));
  if (page.scores) figures.push(showScores(page.scores));
  if (document.getElementById("km-plot")) figures.push(showCurve(page));
  Promise.all(figures)
    .catch(toastError)
    .finally(() => (document.documentElement.dataset.landing = "ready"));
}
