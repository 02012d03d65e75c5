/** The page's figures as Plotly takes them; colours are Okabe–Ito, shapes differ with them. */
import type { Plot } from "../shared/figure";
import { formatNumber } from "../shared/format";
import type { Link, PlantedGene, PlantedHazard, PlantedPage } from "./types";

const LINKS: Record<Link, { colour: string; symbol: string }> = {
  morphology: { colour: "#0072b2", symbol: "circle" },
  surroundings: { colour: "#d55e00", symbol: "diamond" },
  nothing: { colour: "#6b6b6b", symbol: "x" },
};
const SITES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#000000"];
const INK = "#0b5870";
const BINS = 24;
const PEARSON = { range: [-0.25, 1], zeroline: true, zerolinecolor: "#8a99a3", dtick: 0.25 };

/** Found against possible, with the line on which all that is possible was found. */
export function genesPlot(genes: PlantedGene[]): Plot {
  const scored = genes.some(({ found }) => found !== null);
  const links = Object.keys(LINKS) as Link[];
  const points = links.map((link, row) => {
    const own = genes.filter((gene) => gene.link === link && gene.possible !== null);
    const shown = scored ? own.filter(({ found }) => found !== null) : own;
    return {
      type: "scatter",
      mode: "markers",
      name: link,
      x: shown.map(({ possible }) => possible),
      // Without a model the points of a link lie beside each other on its own line.
      y: scored ? shown.map(({ found }) => found) : shown.map((_, at) => row + ((at % 9) - 4) / 16),
      text: shown.map(({ symbol, follows }) => `${symbol}: ${follows}`),
      hovertemplate: scored
        ? "%{text}<br>possible %{x:.2f}, found %{y:.2f}<extra></extra>"
        : "%{text}<br>possible %{x:.2f}<extra></extra>",
      marker: { color: LINKS[link].colour, symbol: LINKS[link].symbol, size: 8, opacity: 0.8 },
    };
  });
  const line = {
    type: "scatter",
    mode: "lines",
    x: [0, 1],
    y: [0, 1],
    line: { color: "#46555f", width: 1.5, dash: "dash" },
    hoverinfo: "skip",
    showlegend: false,
  };
  return {
    data: scored ? [line, ...points] : points,
    layout: {
      xaxis: { ...PEARSON, title: { text: "Pearson possible" } },
      yaxis: scored
        ? { ...PEARSON, title: { text: "Pearson found" } }
        : { tickvals: links.map((_, row) => row), ticktext: links, range: [-0.6, 2.6], zeroline: false },
      showlegend: scored,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      hovermode: "closest",
      margin: { l: scored ? 58 : 98, r: 12, t: scored ? 34 : 8, b: 48 },
    },
  };
}

/** Planted points over fitted intervals, one term a line, the first on top. */
export function hazardsPlot(hazards: PlantedHazard[]): Plot {
  const labels = hazards.map(({ label }) => label);
  const planted = {
    type: "scatter",
    mode: "markers",
    name: "planted",
    x: hazards.map((hazard) => hazard.planted),
    y: labels,
    marker: { color: "#d55e00", symbol: "diamond", size: 11 },
    hovertemplate: "%{y}: planted %{x:.2f}<extra></extra>",
  };
  const fits = hazards.filter(({ fitted }) => fitted !== null);
  const fitted = {
    type: "scatter",
    mode: "markers",
    name: "Cox fit, 95 %",
    x: fits.map((hazard) => hazard.fitted),
    y: fits.map(({ label }) => label),
    error_x: {
      type: "data",
      symmetric: false,
      array: fits.map(({ fitted, high }) => (high ?? 0) - (fitted ?? 0)),
      arrayminus: fits.map(({ fitted, low }) => (fitted ?? 0) - (low ?? 0)),
      color: INK,
      thickness: 2,
      width: 6,
    },
    marker: { color: INK, symbol: "line-ns-open", size: 14, line: { width: 2 } },
    hovertemplate: "%{y}: fitted %{x:.2f}<extra></extra>",
  };
  return {
    data: fits.length > 0 ? [fitted, planted] : [planted],
    layout: {
      xaxis: { title: { text: "log hazard ratio" }, zeroline: true, zerolinecolor: "#46555f" },
      yaxis: { autorange: "reversed", automargin: true, categoryarray: labels, type: "category" },
      showlegend: fits.length > 0,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      margin: { l: 20, r: 12, t: fits.length > 0 ? 34 : 8, b: 48 },
    },
  };
}

export function cellsPlot(cells: PlantedPage["cells"]): Plot {
  return {
    data: [
      {
        type: "bar",
        orientation: "h",
        x: cells.map(({ n }) => n),
        y: cells.map(({ label }) => label),
        text: cells.map(({ n, share }) => `${formatNumber(n)} (${formatNumber(share * 100, 1)} %)`),
        textposition: "auto",
        cliponaxis: false,
        marker: { color: INK },
        hoverinfo: "skip",
      },
    ],
    layout: {
      xaxis: { visible: false },
      yaxis: { autorange: "reversed", automargin: true, ticksuffix: "  ", showgrid: false },
      margin: { l: 20, r: 90, t: 4, b: 4 },
      bargap: 0.3,
    },
  };
}

/** Contact of the patients of each site, in shares of its patients, over common bins. */
export function contactPlot(byPatient: PlantedPage["contact"]["by_patient"]): Plot {
  const values = byPatient.map(({ contact }) => contact);
  const [start, end] = [Math.min(...values), Math.max(...values)];
  const size = (end - start) / BINS || 1;
  const sites = [...new Set(byPatient.map(({ site }) => site))].sort();
  return {
    data: sites.map((site, index) => ({
      type: "histogram",
      name: `site ${site}`,
      x: byPatient.filter((one) => one.site === site).map(({ contact }) => contact),
      xbins: { start, end: end + size, size },
      histnorm: "percent",
      opacity: 0.6,
      marker: { color: SITES[index % SITES.length], line: { color: "#ffffff", width: 1 } },
      hovertemplate: "%{x}: %{y:.0f} % of site " + site + "<extra></extra>",
    })),
    layout: {
      barmode: "overlay",
      xaxis: { title: { text: "contact" } },
      yaxis: { title: { text: "% of the site’s patients" } },
      showlegend: sites.length > 1,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      margin: { l: 54, r: 12, t: 30, b: 44 },
    },
  };
}
