/** The curves, drawn by Plotly; the at-risk table follows the axis wherever it ends up. */
import Plotly from "../shared/plotly";
import type { PlotArea } from "./riskTable";
import type { Figure } from "./types";

export interface FigureSize {
  height: number;
  margin: { l: number; r: number; t: number; b: number };
}

const DASHBOARD: FigureSize = { height: 400, margin: { l: 100, r: 28, t: 12, b: 52 } };

const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: false };

export class KmFigure {
  private range: [number, number] = [0, 1];

  /** `moved` is called whenever the axis has a new place. */
  constructor(
    private readonly host: HTMLElement,
    private readonly moved: (area: PlotArea) => void,
    private readonly size: FigureSize = DASHBOARD,
  ) {
    let width = 0;
    new ResizeObserver(([entry]) => {
      const now = Math.round(entry.contentRect.width);
      if (now === 0 || now === width) return; // 0: hidden
      width = now;
      if (this.drawn) void this.resize();
    }).observe(host);
  }

  private get drawn(): boolean {
    return this.host.classList.contains("js-plotly-plot");
  }

  async draw(figure: Figure): Promise<void> {
    this.range = figure.layout.xaxis.range;
    await Plotly.react(this.host, figure.data, this.layout(figure), CONFIG);
    this.moved(this.area());
  }

  private layout(figure: Figure): unknown {
    const style = getComputedStyle(document.body);
    const fixed = { fixedrange: true, automargin: false };
    return {
      ...figure.layout,
      width: this.host.clientWidth,
      ...this.size,
      font: { family: style.fontFamily, size: 13, color: style.color },
      xaxis: { ...figure.layout.xaxis, ...fixed },
      yaxis: { ...(figure.layout.yaxis as object), ...fixed },
      showlegend: false,
      dragmode: false,
      hoverlabel: { font: { family: style.fontFamily } },
    };
  }

  private async resize(): Promise<void> {
    await Plotly.relayout(this.host, { width: this.host.clientWidth });
    this.moved(this.area());
  }

  private area(): PlotArea {
    const { l, r } = this.size.margin;
    return {
      left: l,
      width: this.host.clientWidth - l - r,
      range: this.range,
    };
  }
}
