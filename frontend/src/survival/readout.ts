/** What each curve says at the month under the pointer, read off the steps themselves. */
import { element } from "../shared/dom";
import { formatFixed } from "../shared/format";
import { strokeKey } from "./key";
import type { PlotArea } from "./riskTable";
import type { Figure, Trace } from "./types";

const GAP = 14;

export interface Steps {
  label: string;
  time: number[];
  percent: number[];
}

/** Curve and tail of each stratum as one series of steps. */
export function stepsOf(traces: Trace[], labels: string[]): Steps[] {
  return labels.map((label, index) => {
    const own = traces.filter(
      ({ legendgroup, meta }) =>
        legendgroup === String(index) && (meta.part === "curve" || meta.part === "tail"),
    );
    return { label, time: own.flatMap(({ x }) => x), percent: own.flatMap(({ y }) => y) };
  });
}

/** Percent without event at `month`: of the last step at or before it; null after follow-up. */
export function survivalAt({ time, percent }: Steps, month: number): number | null {
  if (month < 0 || month > (time.at(-1) ?? -1)) return null;
  return percent[time.findLastIndex((step) => step <= month)] ?? null;
}

export class Readout {
  private steps: Steps[] = [];
  private area: PlotArea = { left: 0, width: 1, range: [0, 1] };
  private readonly line = element("div", { class: "km-cursor", hidden: true });
  private readonly card = element("div", { class: "km-readout", hidden: true });

  constructor(private readonly frame: HTMLElement) {
    frame.append(this.line, this.card);
    frame.addEventListener("pointermove", (event) => this.move(event));
    frame.addEventListener("pointerleave", () => this.hide());
  }

  show(figure: Figure, labels: string[]): void {
    this.steps = stepsOf(figure.data, labels);
    this.hide();
  }

  place(area: PlotArea): void {
    this.area = area;
  }

  private hide(): void {
    this.line.hidden = this.card.hidden = true;
  }

  private move(event: PointerEvent): void {
    const x = event.clientX - this.frame.getBoundingClientRect().left;
    const { left, width, range } = this.area;
    const month = range[0] + ((x - left) / width) * (range[1] - range[0]);
    if (month < range[0] || month > range[1]) {
      this.hide();
      return;
    }
    this.card.replaceChildren(
      element("strong", {}, `${formatFixed(month, 1)} months`),
      ...this.steps.map((steps, index) => {
        const percent = survivalAt(steps, month);
        const said = percent === null ? "no follow-up" : `${formatFixed(percent, 1)} %`;
        return element("div", {}, strokeKey(index), `${steps.label}: ${said}`);
      }),
    );
    this.line.hidden = this.card.hidden = false;
    this.line.style.left = `${x}px`;
    const beside = x > left + width / 2 ? x - GAP - this.card.offsetWidth : x + GAP;
    this.card.style.left = `${beside}px`;
  }
}
