// @vitest-environment happy-dom
// What was planted beside what was found: the table's order, the figures' points, words of scores.
import { chosenGenes } from "../../frontend/src/planted/genes";
import { contactPlot, genesPlot, hazardsPlot } from "../../frontend/src/planted/plots";
import type { PlantedGene } from "../../frontend/src/planted/types";
import { validationText } from "../../frontend/src/shared/scores";
import { isPlanned } from "../../frontend/src/pages/train";

beforeAll(() => {
  Object.defineProperty(navigator, "languages", { value: ["en-GB"], configurable: true });
});

const gene = (symbol: string, fields: Partial<PlantedGene> = {}): PlantedGene => ({
  symbol, link: "morphology", follows: "tumour cells", possible: 0.5, found: 0.4, share: 0.8,
  not_predictable: false, ...fields,
});

const genes = [
  gene("KRT8"),
  gene("CD3E", { link: "surroundings", follows: "lymphocytes near", possible: 0.7, found: 0.6 }),
  gene("XIST", { link: "nothing", possible: null, found: 0.01, share: null }),
];

describe("the table of genes", () => {
  const names = (found: PlantedGene[]): string[] => found.map(({ symbol }) => symbol);

  it("sorts, with what has no number last", () => {
    const all = { text: "", link: "" };
    expect(names(chosenGenes(genes, all, "possible", "descending"))).toEqual(["CD3E", "KRT8", "XIST"]);
    expect(names(chosenGenes(genes, all, "possible", "ascending"))).toEqual(["KRT8", "CD3E", "XIST"]);
  });

  it("filters by link and by what a gene follows", () => {
    expect(names(chosenGenes(genes, { text: "", link: "nothing" }, "symbol", "ascending"))).toEqual(["XIST"]);
    expect(names(chosenGenes(genes, { text: "lymphocytes", link: "" }, "symbol", "ascending"))).toEqual(["CD3E"]);
  });
});

describe("the figures", () => {
  it("set found against possible on an identity line", () => {
    const { data } = genesPlot(genes);
    expect(data.map(({ name }) => name)).toEqual([undefined, "morphology", "surroundings", "nothing"]);
    expect([data[0].x, data[0].y]).toEqual([[0, 1], [0, 1]]);
    expect([data[2].x, data[2].y]).toEqual([[0.7], [0.6]]);
  });

  it("show what is possible while there is no model", () => {
    const { data } = genesPlot(genes.map((one) => ({ ...one, found: null })));
    expect(data).toHaveLength(3);
    expect(data[0].x).toEqual([0.5]);
  });

  it("draw intervals about the fit, and planted points alone for whom outcomes are not", () => {
    const hazard = { label: "Stage", unit: "stage", planted: 0.45, fitted: 0.4, low: 0.2, high: 0.7 };
    const { data } = hazardsPlot([hazard]);
    const bars = data[0].error_x as { array: number[]; arrayminus: number[] };
    expect(bars.array[0]).toBeCloseTo(0.3);
    expect(bars.arrayminus[0]).toBeCloseTo(0.2);
    expect(hazardsPlot([{ ...hazard, fitted: null, low: null, high: null }]).data).toHaveLength(1);
  });

  it("bin all sites alike", () => {
    const { data } = contactPlot([
      { patient: "P1", site: "B", contact: 1 },
      { patient: "P2", site: "A", contact: 0 },
    ]);
    expect(data.map(({ name }) => name)).toEqual(["site A", "site B"]);
    expect(data[0].xbins).toEqual(data[1].xbins);
  });
});

describe("words", () => {
  it("of a score in validation", () => {
    expect(validationText({ pcc: 0.02, low: -0.05, high: 0.08 })).toBe(
      "validation Pearson 0.02 (95 % -0.05 to 0.08)",
    );
    expect(validationText({ pcc: 0.02, low: null, high: null })).toBe("validation Pearson 0.02");
    expect(validationText({ pcc: null, low: null, high: null })).toBe("");
  });

  it("of a split: planned only where each patient has a part", () => {
    expect(isPlanned(["train", "test", "train"])).toBe(true);
    expect(isPlanned(["train", "", "test"])).toBe(false);
    expect(isPlanned(["train", "validation"])).toBe(false);
  });
});
