/** The line of a stratum, in its colour and dash: a key that also tells strata apart in grey. */
import { svgElement } from "../shared/dom";
import type { Figure } from "./types";

interface Stroke {
  colour: string;
  dash: string;
}

let strokes: Stroke[] = [];

/** Colours and dashes come from the figure, where they are chosen once for page and export. */
export function readStrokes(figure: Figure): void {
  strokes = figure.data
    .filter((trace) => trace.meta.part === "curve")
    .map((trace) => ({ colour: trace.line?.color ?? "#000000", dash: trace.line?.dash ?? "solid" }));
}

/** "8px,4px" → "8 4"; "solid" → "". */
export function dashArray(dash: string): string {
  return dash === "solid" ? "" : dash.replaceAll("px", "").replaceAll(",", " ");
}

export function strokeKey(index: number): SVGSVGElement {
  const { colour, dash } = strokes[index] ?? { colour: "#000000", dash: "solid" };
  const key = svgElement("svg", { class: "km-key", viewBox: "0 0 34 10", width: 34, height: 10 });
  key.setAttribute("aria-hidden", "true");
  key.setAttribute("focusable", "false");
  key.append(
    svgElement("line", {
      x1: 0, x2: 34, y1: 5, y2: 5,
      stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dashArray(dash),
    }),
  );
  return key;
}
