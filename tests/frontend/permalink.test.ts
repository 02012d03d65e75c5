import { DEFAULT_STATE, fromQuery, toQuery, type ViewState } from "../../frontend/src/viewer/permalink";

const STATE: ViewState = {
  x: 4637.5,
  y: 4955.2,
  magnification: 12.5,
  rotation: 45,
  table: 3,
  layer: 7,
  gene: "HLA-DRA",
  origin: "difference",
  low: -1.25,
  high: 1.25,
  opacity: 0.35,
  hideLowest: true,
  colours: "cividis",
  split: true,
  types: "predicted",
  hidden: ["T cell", ""],
  trust: false,
};

describe("the link", () => {
  it("carries the whole state", () => {
    expect(fromQuery(toQuery(STATE))).toEqual(STATE);
  });

  it("carries the default state in as good as nothing", () => {
    expect(toQuery(DEFAULT_STATE)).toBe("");
    expect(fromQuery("")).toEqual(DEFAULT_STATE);
  });

  it("keeps gene names that need escaping", () => {
    const gene = "MT-ND1 & co=1?";
    expect(fromQuery(toQuery({ ...STATE, gene })).gene).toBe(gene);
  });

  it("takes defaults for what makes no sense", () => {
    const read = fromQuery("x=abc&m=-4&show=imagined&o=7&lo=3&hi=1&c=jet&table=0&r=");
    expect(read).toEqual(DEFAULT_STATE);
  });

  it("reads a zero opacity and a range from zero", () => {
    const read = fromQuery("o=0&lo=0&hi=2");
    expect([read.opacity, read.low, read.high]).toEqual([0, 0, 2]);
  });
});
