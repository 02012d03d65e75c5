/** The at-risk table under the curves: every number stands under its tick of the axis. */
import { element } from "../shared/dom";
import { strokeKey } from "./key";
import type { RiskTable } from "./types";

/** Width of the column of a number, centred on its tick; what is left of a step is padding. */
const NUMBER_WIDTH = 44;

export interface PlotArea {
  /** Pixels from the left edge of the plot's element to the axis' start, and its length. */
  left: number;
  width: number;
  /** The axis' first and last value. */
  range: [number, number];
}

export interface Columns {
  label: number;
  numbers: number[];
  padding: number[];
}

/**
 * Column widths in pixels such that the middle of each number's box is at its tick. Ticks are in
 * ascending order; steps narrower than a number's box shrink the box.
 */
export function columnsUnder(ticks: number[], area: PlotArea): Columns {
  const scale = area.width / (area.range[1] - area.range[0]);
  const at = ticks.map((tick) => area.left + (tick - area.range[0]) * scale);
  const steps = at.slice(1).map((x, index) => x - at[index]);
  const box = Math.min(NUMBER_WIDTH, ...steps);
  const numbers = [...steps, box];
  return {
    label: (at[0] ?? area.left) - box / 2,
    numbers,
    padding: numbers.map((width) => width - box),
  };
}

const COUNTS = [
  ["At risk", "at_risk"],
  ["Censored", "censored"],
  ["Events", "events"],
] as const;

export function renderRiskTable(table: HTMLTableElement, risk: RiskTable): void {
  const head = element(
    "thead",
    { class: "visually-hidden" },
    element(
      "tr",
      {},
      element("th", { scope: "col" }, "Months"),
      ...risk.ticks.map((tick) => element("th", { scope: "col" }, String(tick))),
    ),
  );
  const groups = element("colgroup", {}, ...[0, ...risk.ticks].map(() => element("col")));
  const bodies = risk.strata.map((stratum, index) =>
    element(
      "tbody",
      {},
      element(
        "tr",
        { class: "km-stratum" },
        element(
          "th",
          { scope: "rowgroup", colspan: risk.ticks.length + 1 },
          strokeKey(index),
          stratum.label,
        ),
      ),
      ...COUNTS.map(([name, key]) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, name),
          ...stratum[key].map((count) => element("td", {}, String(count))),
        ),
      ),
    ),
  );
  const caption = element(
    "caption",
    { class: "visually-hidden" },
    "At risk just before each month; censored and events before it, in total",
  );
  table.replaceChildren(caption, groups, head, ...bodies);
}

/** Sets the widths through the CSSOM, which a strict Content-Security-Policy allows. */
export function alignRiskTable(table: HTMLTableElement, columns: Columns): void {
  const widths = [columns.label, ...columns.numbers];
  table.style.width = `${widths.reduce((sum, width) => sum + width, 0)}px`;
  [...table.querySelectorAll("col")].forEach((col, index) => {
    col.style.width = `${widths[index] ?? 0}px`;
  });
  for (const row of table.querySelectorAll("tbody tr")) {
    [...row.querySelectorAll("td")].forEach((cell, index) => {
      cell.style.paddingRight = `${columns.padding[index] ?? 0}px`;
    });
  }
}
