/** The study page: filter and sort slides, choose some, start a prediction. */
import { byId, pageData } from "../shared/dom";
import { formatFixed, formatNumber } from "../shared/format";
import { goToJob, onApiSubmit } from "../shared/forms";
import { makeSortable } from "../shared/sortable";

const boxes = (): HTMLInputElement[] => [
  ...document.querySelectorAll<HTMLInputElement>("input[name=slides]"),
];

/** Sizes of the slides in millimetres, from pixels and microns per pixel. */
function showSizes(): void {
  for (const cell of document.querySelectorAll<HTMLElement>("td[data-mpp]")) {
    const { width, height, mpp } = cell.dataset;
    const [w, h] = [width, height].map((pixels) => (Number(pixels) * Number(mpp)) / 1000);
    cell.textContent = `${formatFixed(w, 1)} × ${formatFixed(h, 1)}`;
    cell.dataset.value = String(w * h);
  }
}

function filterSlides(): void {
  const filter = document.querySelector<HTMLInputElement>("#slide-filter");
  filter?.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    for (const row of document.querySelectorAll<HTMLElement>("tr[data-find]")) {
      row.hidden = !(row.dataset.find ?? "").toLowerCase().includes(wanted);
    }
  });
}

function showChosen(): void {
  const count = boxes().filter(({ checked }) => checked).length;
  byId<HTMLButtonElement>("predict-start").disabled = count === 0;
  byId("predict-count").textContent =
    count === 0 ? "No slide chosen." : `${formatNumber(count)} ${count === 1 ? "slide" : "slides"} chosen.`;
}

/** The form is there for those who may predict, once there is a model. */
function bindPrediction(): void {
  const form = document.querySelector<HTMLFormElement>("#predict");
  if (!form) return;
  const all = byId<HTMLInputElement>("choose-all");
  all.addEventListener("change", () => {
    for (const box of boxes()) {
      if (!box.closest("tr")?.hidden) box.checked = all.checked;
    }
    showChosen();
  });
  for (const box of boxes()) box.addEventListener("change", showChosen);
  showChosen();
  const body = (): unknown => ({
    model: Number(byId<HTMLSelectElement>("predict-model").value),
    slides: boxes().filter(({ checked }) => checked).map(({ value }) => value),
  });
  onApiSubmit(form, pageData<{ predict_url: string }>().predict_url, body, goToJob);
}

export function start(): void {
  showSizes();
  filterSlides();
  makeSortable(document);
  bindPrediction();
}
