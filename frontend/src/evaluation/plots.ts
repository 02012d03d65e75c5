/** The page's figures as Plotly takes them; colours are Okabe–Ito. */
import type { Plot } from "../shared/figure";
import type { Curve, DrawnSlide, EvaluationPage, Score } from "./types";

const OWN = "#0b5870";
const RIVAL = "#8a99a3";
const ORACLE = "#e69f00";
const NULL = "#cc79a7";
const CURVES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

const numbers = (genes: Score[], column: string): number[] =>
  genes.map((gene) => gene[column]).filter((value): value is number => typeof value === "number");

const median = (values: number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
};

/** What boxes are drawn of; the twins are Pearson per gene of models that were trained on nulls. */
export type Boxes = Pick<EvaluationPage, "name" | "genes" | "titles" | "oracles" | "controls"> & {
  twins?: Record<string, number[]>;
};

/** A box of Pearson over the genes for each predictor, the best on top. */
export function boxesPlot(page: Boxes): Plot {
  const box = (name: string, x: number[], color: string): Record<string, unknown> => ({
    type: "box",
    name,
    x,
    orientation: "h",
    boxpoints: false,
    line: { color, width: 1.5 },
    fillcolor: `${color}33`,
    hoverinfo: "x+name",
  });
  const rivals = Object.entries(page.titles)
    .map(([key, title]) => ({ key, title, values: numbers(page.genes, `${key}_pcc`) }))
    .filter(({ values }) => values.length > 0)
    .sort((a, b) => median(b.values) - median(a.values));
  const nulls = Object.entries(page.controls).map(([name, of]) => ({
    type: "box",
    name: `null: ${name}`,
    orientation: "h",
    y: [`null: ${name}`],
    q1: [of.pcc_q1],
    median: [of.pcc_median],
    q3: [of.pcc_q3],
    lowerfence: [of.pcc_q1],
    upperfence: [of.pcc_q3],
    line: { color: NULL, width: 1.5 },
    fillcolor: `${NULL}33`,
  }));
  const data = [
    box("ceiling", numbers(page.genes, "ceiling_pcc"), ORACLE),
    box(page.name, numbers(page.genes, "pcc"), OWN),
    ...rivals.map(({ key, title, values }) =>
      box(short(title), values, page.oracles.includes(key) ? ORACLE : RIVAL),
    ),
    ...Object.entries(page.twins ?? {}).map(([name, values]) => box(name, values, NULL)),
    ...nulls,
  ];
  return {
    data,
    layout: {
      xaxis: { title: { text: "Pearson per gene" }, zeroline: true, zerolinecolor: "#46555f" },
      yaxis: { autorange: "reversed", automargin: true, ticksuffix: "  " },
      showlegend: false,
      margin: { l: 20, r: 12, t: 4, b: 44 },
    },
  };
}

/** A title that fits beside a box. */
export function short(title: string): string {
  return title.replace("ridge on ", "").replace("mean of the training part", "mean").replace(/ \(.*\)$/, "");
}

/** Loss of Pearson by step of each kind of change, mildest first. */
export function curvesPlot(robustness: NonNullable<EvaluationPage["robustness"]>): Plot {
  const kinds = Object.entries(robustness.curves);
  const line = ([name, curve]: [string, Curve], at: number): Record<string, unknown> => ({
    type: "scatter",
    mode: "lines+markers",
    name,
    x: curve.points.map(({ level }) => `${name} ${String(level)}`),
    y: curve.points.map(({ difference }) => difference),
    error_y: {
      type: "data",
      symmetric: false,
      array: curve.points.map(({ difference, high }) => high - difference),
      arrayminus: curve.points.map(({ difference, low }) => difference - low),
      color: CURVES[at % CURVES.length],
      thickness: 1.5,
      width: 4,
    },
    marker: { color: CURVES[at % CURVES.length], size: 8 },
    line: { color: CURVES[at % CURVES.length], width: 2 },
    text: curve.points.map(({ level, pcc }) => `${String(level)} ${curve.unit}: ${pcc.toFixed(3)}`),
    hovertemplate: "%{text} (%{y:+.3f})<extra></extra>",
  });
  const ticks = kinds.flatMap(([name, { points }]) =>
    points.map(({ level }) => ({ value: `${name} ${String(level)}`, text: String(level) })),
  );
  return {
    data: kinds.map(line),
    layout: {
      xaxis: {
        type: "category",
        tickvals: ticks.map(({ value }) => value),
        ticktext: ticks.map(({ text }) => text),
        title: {
          text: kinds.map(([name, { unit }]) => `${name} (${unit})`).join(" · "),
          font: { size: 11 },
        },
      },
      yaxis: { title: { text: "change of median Pearson" }, zeroline: true, zerolinecolor: "#46555f" },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      margin: { l: 64, r: 12, t: 34, b: 60 },
    },
  };
}

/** Error of what is left when the rows least like the training tissue are dropped. */
export function errorsPlot(errors: NonNullable<EvaluationPage["errors"]>): Plot {
  const told = errors.filter(({ rmse }) => rmse !== null);
  return {
    data: [
      {
        type: "scatter",
        mode: "lines+markers",
        x: told.map(({ share }) => share * 100),
        y: told.map(({ rmse }) => rmse),
        line: { color: OWN, width: 2 },
        marker: { size: 7 },
        hovertemplate: "%{x} % dropped: %{y:.3f}<extra></extra>",
      },
    ],
    layout: {
      xaxis: { title: { text: "% of rows dropped, least alike first" } },
      yaxis: { title: { text: "error" } },
      margin: { l: 64, r: 12, t: 8, b: 44 },
    },
  };
}

/** Measured against predicted values of one slide. */
export function scatterPlot(slide: DrawnSlide): Plot {
  return {
    data: [
      {
        type: "scattergl",
        mode: "markers",
        x: slide.predicted,
        y: slide.measured,
        marker: { color: OWN, size: 4, opacity: 0.35 },
        hovertemplate: "predicted %{x:.2f}, measured %{y:.2f}<extra></extra>",
      },
    ],
    layout: {
      xaxis: { title: { text: "predicted" } },
      yaxis: { title: { text: "measured" } },
      margin: { l: 44, r: 6, t: 6, b: 38 },
    },
  };
}
