import { DEFAULT_STATE, type ViewState } from "../../frontend/src/viewer/permalink";
import { annotationsOf, layersOf, offers, settle } from "../../frontend/src/viewer/picture";
import type { GeneInfo, LayerInfo, TableInfo } from "../../frontend/src/viewer/types";

const layer = (id: number): LayerInfo => ({
  id,
  kind: "expression",
  unit: "",
  model: { id, name: `PAST v${id}`, version: id },
  n_genes: 2,
  exposed: false,
  part: null,
  not_predictable: {},
    intervals: null,
});
const TABLE: TableInfo = {
  id: 1,
  source: "measured",
  row_kind: "spot",
  n_rows: 3,
  n_genes: 2,
  spot_diameter_um: 100,
  measured: true,
  annotated: false,
  coordinates_url: "",
  layers: [layer(5), layer(6), { ...layer(7), kind: "embedding" }],
};
const gene = (measured: boolean, ...layers: number[]): GeneInfo => ({ symbol: "ERBB2", measured, layers });
const state = (changes: Partial<ViewState>): ViewState => ({
  ...DEFAULT_STATE,
  table: 1,
  layer: 5,
  gene: "ERBB2",
  ...changes,
});

describe("what can be shown", () => {
  it("lists expression layers only", () => {
    expect(layersOf(TABLE).map(({ id }) => id)).toEqual([5, 6]);
  });

  it("needs both kinds of values for a difference", () => {
    const of = (found: GeneInfo) => offers("difference", TABLE, layer(5), found);
    expect([of(gene(true, 5)), of(gene(true)), of(gene(false, 5)), of(gene(true, 6))]).toEqual([
      true,
      false,
      false,
      false,
    ]);
    expect(offers("difference", TABLE, null, null)).toBe(false);
  });
});

describe("types and trust", () => {
  const trust = { ...layer(6), id: 9, kind: "trust" };
  const table = { ...TABLE, layers: [layer(5), layer(6), trust] };

  it("are those of the chosen model, never another's", () => {
    expect(annotationsOf("trust", table, layer(6))?.id).toBe(9);
    expect(annotationsOf("trust", table, layer(5))).toBeUndefined();
    expect(annotationsOf("cell_type", table, layer(6))).toBeUndefined();
  });

  it("are there without expression, where the model declined the slide", () => {
    expect(annotationsOf("trust", { ...table, layers: [trust] }, null)?.id).toBe(9);
  });
});

describe("settle", () => {
  it("leaves alone what can be shown", () => {
    const asked = state({ origin: "predicted", low: 1, high: 2 });
    expect(settle(asked, TABLE, gene(true, 5))).toBe("");
    expect(asked).toEqual(state({ origin: "predicted", low: 1, high: 2 }));
  });

  it("falls back to measured values and says so", () => {
    const asked = state({ origin: "predicted", low: 1, high: 2 });
    expect(settle(asked, TABLE, gene(true))).toMatch(/not predicted by PAST v5/);
    expect(asked).toEqual(state({ origin: "measured" }));
  });

  it("turns to the model that has the gene", () => {
    const asked = state({ origin: "measured" });
    expect(settle(asked, TABLE, gene(false, 6))).toMatch(/not measured/);
    expect(asked).toEqual(state({ origin: "predicted", layer: 6 }));
  });

  it("gives up two views where there is one kind of values", () => {
    const asked = state({ split: true });
    settle(asked, TABLE, gene(true));
    expect(asked.split).toBe(false);
  });

  it("names a gene that nothing has", () => {
    const asked = state({});
    expect(settle(asked, TABLE, null)).toMatch(/ERBB2 is not among/);
    expect(asked.gene).toBe("");
    expect(settle(asked, TABLE, null)).toBe("");
  });
});
