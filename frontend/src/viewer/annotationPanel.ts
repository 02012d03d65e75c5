/** The panel's cell types and trust: what is loaded, the legend that filters, the greying. */
import { byId, element } from "../shared/dom";
import { formatFixed, formatNumber } from "../shared/format";
import {
  afterClick,
  BEYOND,
  colourOf,
  NOT_ASSIGNED,
  typeColours,
  typeCounts,
  type CellTypes,
  type Trust,
} from "./annotations";
import type { SlideData } from "./data";
import type { ViewState } from "./permalink";
import { annotationsOf, rowsName } from "./picture";
import type { Colouring } from "./pointLayer";
import type { LayerInfo, TableInfo } from "./types";

type TypesOrigin = CellTypes["origin"];
const FULL = { low: 0, high: 255, hideLowest: false, diverging: false };

export class AnnotationPanel {
  types: CellTypes | null = null;
  private trust: Trust | null = null;

  /**
   * @param reload the state asks for other values
   * @param repaint the state asks for another look of the same values
   */
  constructor(
    private readonly state: ViewState,
    private readonly data: SlideData,
    reload: () => void,
    private readonly repaint: () => void,
  ) {
    byId("colour-by").addEventListener("change", (event) => {
      state.types = (event.target as HTMLInputElement).value === "types" ? this.offered[0] : null;
      reload();
    });
    byId("types-origin").addEventListener("change", (event) => {
      state.types = (event.target as HTMLInputElement).value as TypesOrigin;
      state.hidden = [];
      reload();
    });
    byId("types-legend").addEventListener("click", (event) => this.click(event));
    byId("types-all").addEventListener("click", () => this.hide(new Set()));
    byId("trust").addEventListener("change", (event) => {
      state.trust = (event.target as HTMLInputElement).checked;
      repaint();
    });
  }

  private offered: TypesOrigin[] = [];

  /**
   * Fetches what the state asks for of this table, by the model of this expression layer.
   * @returns shows it, beside expression that is a model's or is not
   */
  async load(table: TableInfo, layer: LayerInfo | null): Promise<(predicted: boolean) => void> {
    const predicted = annotationsOf("cell_type", table, layer);
    const trusted = annotationsOf("trust", table, layer);
    const offered: TypesOrigin[] = [];
    if (predicted) offered.push("predicted");
    if (table.annotated) offered.push("annotated");
    const { state } = this;
    if (state.types && !offered.includes(state.types)) state.types = offered.at(0) ?? null;
    const [types, trust] = await Promise.all([
      state.types === null
        ? null
        : state.types === "predicted" && predicted
          ? this.data.predictedTypes(predicted.id)
          : this.data.annotatedTypes(table),
      trusted ? this.data.trust(trusted.id) : null,
    ]);
    return (predicted) => {
      this.offered = offered;
      this.types = types;
      this.trust = trust;
      this.show(table, predicted);
    };
  }

  /** Rows to grey; null for none. What was measured needs no trust in a model. */
  mask(predicted: boolean): Uint8Array | null {
    return predicted && this.state.trust ? (this.trust?.mask ?? null) : null;
  }

  colouring(types: CellTypes): Colouring {
    return {
      ...FULL,
      bytes: types.codes,
      colours: typeColours(types.names, this.hidden(types)),
      mask: this.mask(types.origin === "predicted"),
    };
  }

  /** Whether a row is drawn in a colour of its own. */
  keeps(row: number): boolean {
    return this.types !== null && !this.hidden(this.types).has(this.types.codes[row]);
  }

  /** What the pointer says of a row. */
  lines(row: number, predicted: boolean): string[] {
    const { types, trust } = this;
    const lines: string[] = [];
    if (types) {
      const code = types.codes[row];
      const name = code === NOT_ASSIGNED ? "not assigned" : types.names[code];
      const sure = types.probability ? ` (${formatFixed(types.probability[row] / 2.55, 0)} %)` : "";
      lines.push(`${name}, ${types.origin}${sure}`);
    }
    if (predicted && trust && trust.ood[row] >= BEYOND) lines.push("unlike the training images");
    return lines;
  }

  private hidden(types: CellTypes): Set<number> {
    const codes = this.state.hidden.map((name) =>
      name === "" ? NOT_ASSIGNED : types.names.indexOf(name),
    );
    return new Set(codes.filter((code) => code >= 0));
  }

  private hide(codes: Set<number>): void {
    const { types } = this;
    if (!types) return;
    this.state.hidden = [...codes].map((code) => (code === NOT_ASSIGNED ? "" : types.names[code]));
    this.showLegend(types);
    this.repaint();
  }

  private click(event: MouseEvent): void {
    const button = (event.target as Element).closest<HTMLElement>("button[data-code]");
    if (!button || !this.types) return;
    const codes = typeCounts(this.types).map(({ code }) => code);
    const only = event.altKey || event.shiftKey;
    this.hide(afterClick(this.hidden(this.types), Number(button.dataset.code), codes, only));
    document.querySelector<HTMLElement>(`[data-code="${button.dataset.code}"]`)?.focus();
  }

  private show(table: TableInfo, expressionPredicted: boolean): void {
    const { state, types, trust, offered } = this;
    byId("colour-by-field").hidden = offered.length === 0;
    check("colour-by", types ? "types" : "gene");
    for (const id of ["gene-section", "values-section"]) byId(id).hidden = types !== null;
    byId("types-section").hidden = types === null;
    // What was measured is not greyed.
    const predicted = types ? types.origin === "predicted" : expressionPredicted;
    byId("trust-section").hidden = !predicted || trust === null || trust.beyond === 0;
    if (trust) {
      byId<HTMLInputElement>("trust").checked = state.trust;
      const share = formatFixed((100 * trust.beyond) / Math.max(table.n_rows, 1), 1);
      byId("trust-label").textContent =
        `Grey ${formatNumber(trust.beyond)} ${rowsName(table, trust.beyond)} (${share} %) unlike the training images`;
    }
    if (!types) return;
    for (const radio of document.querySelectorAll<HTMLInputElement>("#types-origin input")) {
      radio.disabled = !offered.includes(radio.value as TypesOrigin);
    }
    check("types-origin", types.origin);
    byId("types-source").textContent =
      types.origin === "predicted"
        ? `Predicted by ${types.model || "a deleted model"} from H&E. Not assigned: no type is likely enough.`
        : `Given with the measured ${rowsName(table)}.`;
    this.showLegend(types);
  }

  private showLegend(types: CellTypes): void {
    const hidden = this.hidden(types);
    const counts = typeCounts(types);
    const entries = counts.map(({ code, name, rows }) => {
      const swatch = element("span", { class: "type-swatch", "aria-hidden": true });
      swatch.style.backgroundColor = `rgb(${colourOf(types.names, code).join(" ")})`;
      const share = formatFixed((100 * rows) / Math.max(types.codes.length, 1), 1);
      const button = element(
        "button",
        { type: "button", class: "type-entry", "data-code": code, "aria-pressed": !hidden.has(code) ? "true" : "false" },
        swatch,
        element("span", { class: "type-name" }, name),
        element("span", { class: "number muted" }, `${formatNumber(rows)} · ${share} %`),
      );
      return element("li", {}, button);
    });
    byId("types-legend").replaceChildren(...entries);
    byId("types-all").hidden = hidden.size === 0;
  }
}

function check(id: string, value: string): void {
  for (const radio of document.querySelectorAll<HTMLInputElement>(`#${id} input`)) {
    radio.checked = radio.value === value;
  }
}
