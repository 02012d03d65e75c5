/** The state of the viewer that a link carries, to and from a query string. */

import type { ColourMapName } from "./colormaps";
import type { Origin } from "./expression";

export interface ViewState {
  /** Centre in level-0 pixels; magnification in ×; rotation in degrees. */
  x: number | null;
  y: number | null;
  magnification: number | null;
  rotation: number;
  table: number | null;
  layer: number | null;
  gene: string;
  origin: Origin;
  /** Colour range in the unit of the values; null is the default percentile range. */
  low: number | null;
  high: number | null;
  opacity: number;
  hideLowest: boolean;
  colours: Exclude<ColourMapName, "diverging">;
  split: boolean;
  /** Colour by cell type instead of a gene, as somebody annotated it or a model predicted it. */
  types: "annotated" | "predicted" | null;
  /** Names of types that are not drawn; "" is "not assigned". */
  hidden: string[];
  /** Grey what looks unlike the model's training images. */
  trust: boolean;
}

export const DEFAULT_STATE: ViewState = {
  x: null,
  y: null,
  magnification: null,
  rotation: 0,
  table: null,
  layer: null,
  gene: "",
  origin: "measured",
  low: null,
  high: null,
  opacity: 0.8,
  hideLowest: false,
  colours: "viridis",
  split: false,
  types: null,
  hidden: [],
  trust: true,
};

export function toQuery(state: ViewState): string {
  const query = new URLSearchParams();
  const put = (key: string, value: number | null, digits: number): void => {
    if (value !== null) query.set(key, String(Number(value.toFixed(digits))));
  };
  put("x", state.x, 1);
  put("y", state.y, 1);
  put("m", state.magnification, 4);
  if (state.rotation) put("r", state.rotation, 2);
  put("table", state.table, 0);
  put("layer", state.layer, 0);
  if (state.gene) {
    query.set("gene", state.gene);
    query.set("show", state.origin);
  }
  put("lo", state.low, 4);
  put("hi", state.high, 4);
  if (state.opacity !== DEFAULT_STATE.opacity) put("o", state.opacity, 2);
  if (state.hideLowest) query.set("hide", "1");
  if (state.colours !== DEFAULT_STATE.colours) query.set("c", state.colours);
  if (state.split) query.set("split", "1");
  if (state.types) query.set("types", state.types);
  for (const name of state.types ? state.hidden : []) query.append("without", name);
  if (!state.trust) query.set("grey", "0");
  return query.toString();
}

/** Reads a query string; what is missing or makes no sense takes its default. */
export function fromQuery(text: string): ViewState {
  const query = new URLSearchParams(text);
  const number = (key: string): number | null => {
    const value = query.get(key);
    return value !== null && value !== "" && Number.isFinite(Number(value)) ? Number(value) : null;
  };
  const positive = (key: string): number | null => {
    const value = number(key);
    return value !== null && value > 0 ? value : null;
  };
  const origin = query.get("show");
  const types = query.get("types");
  const opacity = number("o");
  const [low, high] = [number("lo"), number("hi")];
  const rangeMakesSense = low !== null && high !== null && high > low;
  return {
    x: number("x"),
    y: number("y"),
    magnification: positive("m"),
    rotation: number("r") ?? 0,
    table: positive("table"),
    layer: positive("layer"),
    gene: query.get("gene") ?? "",
    origin:
      origin === "predicted" || origin === "difference" || origin === "measured"
        ? origin
        : DEFAULT_STATE.origin,
    low: rangeMakesSense ? low : null,
    high: rangeMakesSense ? high : null,
    opacity: opacity !== null && opacity >= 0 && opacity <= 1 ? opacity : DEFAULT_STATE.opacity,
    hideLowest: query.get("hide") === "1",
    colours: query.get("c") === "cividis" ? "cividis" : "viridis",
    split: query.get("split") === "1",
    types: types === "annotated" || types === "predicted" ? types : null,
    hidden: query.getAll("without"),
    trust: query.get("grey") !== "0",
  };
}
