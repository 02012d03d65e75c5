/** The page "What was planted": its figures follow the width of their places. */
import { byId, pageData } from "../shared/dom";
import { draw, type Plot } from "../shared/figure";
import { toastError } from "../shared/toast";
import { GeneTable } from "./genes";
import { cellsPlot, contactPlot, genesPlot, hazardsPlot } from "./plots";
import type { PlantedPage } from "./types";

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
