/** What the side panel and the captions say about the present picture. */
import { byId, element } from "../shared/dom";
import { formatFixed, formatNumber } from "../shared/format";
import { NOT_PREDICTABLE, validationText, type NotPredictable } from "../shared/scores";
import type { CellTypes } from "./annotations";
import { valueAt, type Expression, type Origin } from "./expression";
import type { ViewState } from "./permalink";
import { layersOf, modelName, offers, rowsName } from "./picture";
import type { Hover } from "./slideView";
import type { GeneInfo, LayerInfo, SlideInfo, TableInfo } from "./types";

const HOVER_CARD_PX = 190;
const HOVER_OFFSET_PX = 14;

export function showFacts(slide: SlideInfo): void {
  byId("slide-facts").textContent =
    `· ${slide.patient} · ${formatNumber(slide.width)} × ${formatNumber(slide.height)} px · ` +
    `${formatFixed(slide.mpp, 3)} µm/px (${slide.mpp_source})`;
}

/** Puts the state, and what is possible in the chosen table, into the panel's fields. */
export function showChoices(
  state: ViewState,
  slide: SlideInfo,
  table: TableInfo,
  gene: GeneInfo | null,
): void {
  const layers = layersOf(table);
  const layer = layers.find(({ id }) => id === state.layer) ?? null;
  byId("table-field").hidden = slide.tables.length < 2;
  setOptions(
    "table",
    slide.tables.map((t) => [t.id, `${t.source}: ${formatNumber(t.n_rows)} ${rowsName(t)}`]),
    table.id,
  );
  byId("layer-field").hidden = layers.length === 0;
  setOptions(
    "layer",
    layers.map((layer) => [layer.id, modelName(layer)]),
    state.layer ?? 0,
  );
  for (const radio of document.querySelectorAll<HTMLInputElement>("#origins input")) {
    const origin = radio.value as Origin;
    radio.disabled = !offers(origin, table, layer, gene);
    radio.checked = !state.split && origin === state.origin;
  }
  byId("split-field").hidden = !offers("difference", table, layer, gene);
  byId<HTMLInputElement>("split").checked = state.split;
  byId<HTMLInputElement>("gene").value = state.gene;
  byId<HTMLInputElement>("opacity").value = String(state.opacity);
  byId<HTMLInputElement>("hide-lowest").checked = state.hideLowest;
  byId<HTMLSelectElement>("colours").value = state.colours;
  for (const id of ["cell-size", "cell-size-label"]) byId(id).hidden = table.row_kind === "spot";
  const genes = Math.max(table.n_genes, ...layers.map(({ n_genes }) => n_genes ?? 0));
  byId("gene-hint").textContent =
    `${formatNumber(genes)} genes on ${formatNumber(table.n_rows)} ${rowsName(table)}` +
    (table.spot_diameter_um ? ` of ${formatNumber(table.spot_diameter_um)} µm` : "");
}

function setOptions(id: string, entries: [number, string][], chosen: number): void {
  const select = byId<HTMLSelectElement>(id);
  select.replaceChildren(...entries.map(([value, text]) => element("option", { value }, text)));
  select.value = String(chosen);
}

/** What the model had seen of this slide or its patient; empty when nothing. */
function exposureText({ exposed, part }: LayerInfo): string {
  if (part === "train") return "⚠ The model was trained on this slide";
  return exposed ? "⚠ The model was trained on other slides of this patient" : "";
}

/** What the search list says of a gene: where its values come from, and how far to trust them. */
export function geneNote(gene: GeneInfo, layer: LayerInfo | null): string {
  const predicted = gene.layers.length > 0;
  const refused = layer !== null && gene.symbol in layer.not_predictable;
  return [gene.measured && "measured", predicted && (refused ? NOT_PREDICTABLE : "predicted")]
    .filter(Boolean)
    .join(", ");
}

/** How many rows of the table are in view, in colour. */
export function countsText(table: TableInfo, inView: number | null): string {
  const total = `${formatNumber(table.n_rows)} ${rowsName(table)}`;
  return inView === null
    ? `0 of ${total} shown: search a gene`
    : `${formatNumber(inView)} of ${total} shown in this view`;
}

/** Which models would not predict on the slide, and why; nothing where there are none. */
export function showDeclined({ declined }: SlideInfo): void {
  const lines = declined.map(({ model, share, threshold }) =>
    element(
      "p",
      { class: "message message-warning small" },
      `${model || "A model"} declined this slide: ${formatFixed(share * 100, 0)} % of its cells are ` +
        `unlike the tissue it was trained on (it declines above ${formatFixed(threshold * 100, 0)} %).`,
    ),
  );
  byId("declined").replaceChildren(...lines);
}

/** Says what the picture is: measured, predicted by which version, and how far to trust it. */
export function showBadges(behind: Expression[], layer: LayerInfo | null): void {
  const badges: HTMLElement[] = [];
  const has = (origin: Origin): boolean => behind.some((expression) => expression.origin === origin);
  if (has("measured")) {
    badges.push(element("span", { class: "badge badge-measured" }, "measured"));
  }
  if (has("predicted") && layer) {
    const text = `predicted · ${modelName(layer)}`;
    badges.push(
      layer.model
        ? element("a", { class: "badge badge-predicted", href: `/models/${layer.model.id}/` }, text)
        : element("span", { class: "badge badge-predicted" }, text),
    );
    const warning = exposureText(layer);
    if (warning) badges.push(element("span", { class: "badge badge-warning" }, warning));
    const refused = layer.not_predictable[behind[0].symbol] as NotPredictable | undefined;
    if (refused) {
      const text = ["⚠ Not predictable from H&E", validationText(refused)].filter(Boolean).join(": ");
      badges.push(element("span", { class: "badge badge-warning" }, text));
    }
  }
  byId("badges").replaceChildren(...badges);
  showInterval(behind, layer);
  const pearson = behind.find(({ origin }) => origin === "predicted")?.pearson ?? null;
  const agreement = byId("agreement");
  agreement.hidden = pearson === null;
  if (pearson !== null) {
    agreement.textContent = `Pearson, predicted with measured: ${formatFixed(pearson, 2)}`;
  }
}

/** How far a predicted value of the gene may be off, and what held-out patients showed of that. */
function showInterval(behind: Expression[], layer: LayerInfo | null): void {
  const line = byId("interval");
  const predicted = behind.find(({ origin }) => origin === "predicted");
  const width = predicted && layer?.intervals?.half_width[predicted.symbol];
  line.hidden = width === undefined;
  if (width === undefined || !layer?.intervals) return;
  const level = formatFixed(100 * layer.intervals.level, 0);
  const shown = layer.intervals.coverage?.test?.overall;
  const held = shown === undefined ? "not checked" : `${formatFixed(100 * shown, 1)} % there`;
  line.textContent =
    `Predicted ± ${formatFixed(width, 2)}: meant to hold ${level} % of measured values on new patients (${held}).`;
}

/** The caption of a view that is coloured by cell type. */
export function showTypesCaption(figure: HTMLElement, types: CellTypes): void {
  const caption = figure.querySelector<HTMLElement>("figcaption");
  if (!caption) return;
  caption.hidden = false;
  const predicted = types.origin === "predicted";
  const text = predicted ? `Cell types: predicted · ${types.model}` : "Cell types: annotated";
  const kind = predicted ? "predicted" : "measured";
  caption.replaceChildren(element("span", { class: `badge badge-${kind}` }, text));
}

/** The badge in a view's corner: which gene, and whether it was measured or predicted. */
export function showCaption(
  figure: HTMLElement,
  shown: Expression | null,
  layer: LayerInfo | null,
): void {
  const caption = figure.querySelector<HTMLElement>("figcaption");
  if (!caption) return;
  caption.hidden = !shown;
  if (!shown) return;
  const model = layer ? modelName(layer) : "";
  const [kind, text] = {
    measured: ["measured", "measured"],
    predicted: ["predicted", `predicted · ${model}`],
    difference: ["predicted", `predicted − measured · ${model}`],
  }[shown.origin];
  caption.replaceChildren(
    element("span", { class: `badge badge-${kind}` }, `${shown.symbol}: ${text}`),
  );
}

/** The row under the pointer and its values, beside the pointer. */
export function showHover(
  hover: Hover | null,
  behind: Expression[],
  said: string[],
  table: TableInfo | undefined,
  figure: HTMLElement,
): void {
  const card = byId("hover-card");
  card.hidden = !hover || !table || behind.length + said.length === 0;
  if (!hover || !table || card.hidden) return;
  const name = rowsName(table, 1);
  const lines = behind.map((expression) => {
    const value = formatFixed(valueAt(expression, hover.row), 2);
    return element("div", {}, `${expression.symbol} ${expression.origin}: ${value}`);
  });
  const title = `${name[0].toUpperCase()}${name.slice(1)} ${hover.row}`;
  const more = said.map((text) => element("div", {}, text));
  card.replaceChildren(element("strong", {}, title), ...more, ...lines);
  const right = figure.offsetLeft + figure.offsetWidth - HOVER_CARD_PX;
  card.style.left = `${Math.min(figure.offsetLeft + hover.left + HOVER_OFFSET_PX, right)}px`;
  card.style.top = `${hover.top + HOVER_OFFSET_PX}px`;
}
