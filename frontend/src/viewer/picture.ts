/** Which values can be shown, and the ones that make the present picture. */
import { COLOUR_MAPS, type ColourMapName } from "./colormaps";
import type { SlideData } from "./data";
import { byteOf, difference, type Expression, type Origin } from "./expression";
import type { ViewState } from "./permalink";
import type { Colouring } from "./pointLayer";
import type { ValueRange } from "./scalePanel";
import type { GeneInfo, LayerInfo, TableInfo } from "./types";

export interface Picture {
  /** What each view colours its points by, from left to right. */
  panes: Expression[];
  /** All values behind it, for the pointer and the badges. */
  behind: Expression[];
}

export function rowsName(table: TableInfo, count = 2): string {
  return count === 1 ? table.row_kind : `${table.row_kind}s`;
}

/** Expression layers of a table. */
export function layersOf(table: TableInfo): LayerInfo[] {
  return table.layers.filter(({ kind }) => kind === "expression");
}

export function layerOf(state: ViewState, table: TableInfo): LayerInfo | null {
  return layersOf(table).find(({ id }) => id === state.layer) ?? null;
}

/**
 * Types or trust beside an expression layer: of its own model only, for what another model has never
 * seen says nothing of this one. Without such a layer (a declined slide) the newest.
 */
export function annotationsOf(
  kind: "cell_type" | "trust",
  table: TableInfo,
  layer: LayerInfo | null,
): LayerInfo | undefined {
  const all = table.layers.filter((one) => one.kind === kind);
  return layer ? all.find(({ model }) => model?.id === layer.model?.id) : all.at(0);
}

export function modelName({ model }: LayerInfo): string {
  return model?.name ?? "deleted model";
}

/** Whether there are values of this origin: of the gene, or of any gene while none is chosen. */
export function offers(
  origin: Origin,
  table: TableInfo,
  layer: LayerInfo | null,
  gene: GeneInfo | null,
): boolean {
  const measured = gene ? gene.measured : table.measured;
  const predicted = layer !== null && (gene?.layers.includes(layer.id) ?? true);
  if (origin === "difference") return measured && predicted;
  return origin === "measured" ? measured : predicted;
}

/**
 * Makes the state fit a gene that may be measured only, or predicted only, or by another model
 * (null: the table has no such gene). Says what was changed; empty when nothing was.
 */
export function settle(state: ViewState, table: TableInfo, gene: GeneInfo | null): string {
  if (!gene) {
    const said = state.gene ? `${state.gene} is not among the genes of this slide.` : "";
    state.gene = "";
    return said;
  }
  if (!gene.measured && !gene.layers.includes(state.layer ?? 0)) {
    state.layer = gene.layers.at(0) ?? null;
  }
  const layer = layerOf(state, table);
  if (offers(state.split ? "difference" : state.origin, table, layer, gene)) return "";
  state.split = false;
  state.origin = gene.measured ? "measured" : "predicted";
  state.low = state.high = null;
  return gene.measured
    ? `${gene.symbol} is not predicted${layer ? ` by ${modelName(layer)}` : ""}: measured values are shown.`
    : `${gene.symbol} was not measured on these ${rowsName(table)}: predicted values are shown.`;
}

/** Fetches what a settled state asks for. */
export async function loadPicture(
  data: SlideData,
  state: ViewState,
  table: TableInfo,
  gene: GeneInfo | null,
): Promise<Picture> {
  if (!gene) return { panes: [], behind: [] };
  const layer = layerOf(state, table);
  const predicted = (): Promise<Expression> => data.predicted(layer?.id ?? 0, gene.symbol);
  // Measured values are scaled over the panel they share with the model they are set beside.
  const shared = offers("difference", table, layer, gene) ? (layer?.id ?? null) : null;
  const measured = (): Promise<Expression> => data.measured(table, shared, gene.symbol);
  if (!state.split && state.origin !== "difference") {
    const shown = [await (state.origin === "measured" ? measured() : predicted())];
    return { panes: shown, behind: shown };
  }
  const both = await Promise.all([measured(), predicted()]);
  if (state.split) return { panes: both, behind: both };
  const gap = difference(both[1], both[0]);
  return { panes: [gap], behind: [...both, gap] };
}

/** How points are coloured by values; rows of the mask turn grey. */
export function colouringOf(
  expression: Expression,
  range: ValueRange,
  colourMap: ColourMapName,
  hideLowest: boolean,
  mask: Uint8Array | null,
): Colouring {
  return {
    bytes: expression.bytes,
    colours: COLOUR_MAPS[colourMap],
    low: byteOf(expression, range.low),
    high: byteOf(expression, range.high),
    hideLowest,
    diverging: expression.origin === "difference",
    mask,
  };
}
