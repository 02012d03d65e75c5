/** The page "What was planted": its figures follow the width of their places. */
import { byId, pageData } from "../shared/dom";
import Plotly from "../shared/plotly";
import { toastError } from "../shared/toast";
import { GeneTable } from "./genes";
import { cellsPlot, contactPlot, genesPlot, hazardsPlot, type Plot } from "./plots";
import type { PlantedPage } from "./types";

const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: false };
const AXIS = { fixedrange: true, gridcolor: "#e3e8eb" };

async function draw(host: HTMLElement, { data, layout }: Plot): Promise<void> {
  const style = getComputedStyle(document.body);
  const whole = {
    ...layout,
    xaxis: { ...AXIS, ...(layout.xaxis as object) },
    yaxis: { ...AXIS, ...(layout.yaxis as object) },
    width: host.clientWidth,
    height: host.clientHeight,
    font: { family: style.fontFamily, size: 13, color: style.color },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    dragmode: false,
  };
  await Plotly.newPlot(host, data, whole, CONFIG);
  let width = host.clientWidth;
  new ResizeObserver(() => {
    if (host.clientWidth === width || host.clientWidth === 0) return;
    width = host.clientWidth;
    void Plotly.relayout(host, { width }).catch(toastError);
  }).observe(host);
}

export function start(): void {
  const page = pageData<PlantedPage>();
  new GeneTable(page.genes);
  const plots: [string, Plot][] = [
    ["plot-genes", genesPlot(page.genes)],
    ["plot-hazards", hazardsPlot(page.hazards)],
    ["plot-cells", cellsPlot(page.cells)],
    ["plot-contact", contactPlot(page.contact.by_patient)],
  ];
  Promise.all(plots.map(([id, plot]) => draw(byId(id), plot)))
    .catch(toastError)
    .finally(() => (document.documentElement.dataset.planted = "ready"));
}
