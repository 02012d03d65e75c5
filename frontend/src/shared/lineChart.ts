/** A small line chart as SVG: one series over steps, with its axes and its last value. */
import { element, svgElement } from "./dom";
import { formatNumber } from "./format";

const WIDTH = 420;
const HEIGHT = 190;
const MARGIN = { left: 52, right: 14, top: 12, bottom: 28 };

export interface Point {
  step: number;
  value: number;
}

/** Round numbers (1, 2 or 5 × 10ⁿ apart) from at or below `low` to at or above `high`. */
export function ticks(low: number, high: number, wanted: number): number[] {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / wanted;
  const decade = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * decade).find((size) => size >= rough) ?? rough;
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, index) =>
    Number(((first + index) * step).toPrecision(12)),
  );
}

export class LineChart {
  readonly figure: HTMLElement;
  private readonly svg = svgElement("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    class: "line-chart",
    role: "img",
  });
  private readonly last = element("strong", { class: "number" });
  private readonly points: Point[] = [];

  constructor(private readonly name: string) {
    const title = element("figcaption", { class: "panel-head" }, element("span", {}, name), this.last);
    this.figure = element("figure", { class: "chart" }, title, this.svg);
  }

  add(points: Point[]): void {
    this.points.push(...points);
    this.points.sort((a, b) => a.step - b.step);
    this.draw();
  }

  private draw(): void {
    const { points, svg } = this;
    const latest = points.at(-1);
    if (!latest) return;
    this.last.textContent = formatNumber(latest.value, 4);
    svg.setAttribute(
      "aria-label",
      `${this.name}: ${formatNumber(latest.value, 4)} at step ${latest.step}, ${points.length} values`,
    );
    const xs = ticks(points[0].step, latest.step, 5).filter(Number.isInteger);
    const values = points.map(({ value }) => value);
    const ys = ticks(Math.min(...values), Math.max(...values), 4);
    const [x0, x1] = [points[0].step, Math.max(latest.step, points[0].step + 1)];
    const [y0, y1] = [ys[0], ys[ys.length - 1]];
    const x = (step: number): number =>
      MARGIN.left + ((step - x0) / (x1 - x0)) * (WIDTH - MARGIN.left - MARGIN.right);
    const y = (value: number): number =>
      HEIGHT - MARGIN.bottom - ((value - y0) / (y1 - y0)) * (HEIGHT - MARGIN.top - MARGIN.bottom);

    svg.replaceChildren();
    for (const tick of ys) {
      svg.appendChild(
        svgElement("line", { class: "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y(tick), y2: y(tick) }),
      );
      svg.appendChild(text(formatNumber(tick, 4), MARGIN.left - 6, y(tick) + 4, "end"));
    }
    for (const tick of xs.filter((step) => step >= x0 && step <= x1)) {
      svg.appendChild(text(formatNumber(tick), x(tick), HEIGHT - 8, "middle"));
    }
    const path = points.map(({ step, value }) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`);
    svg.appendChild(svgElement("polyline", { class: "series", points: path.join(" ") }));
    svg.appendChild(svgElement("circle", { class: "latest", cx: x(latest.step), cy: y(latest.value), r: 3.5 }));
  }
}

function text(content: string, x: number, y: number, anchor: string): SVGTextElement {
  const node = svgElement("text", { x, y, "text-anchor": anchor });
  node.textContent = content;
  return node;
}
