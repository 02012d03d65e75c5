// @vitest-environment happy-dom
// The evaluation page: its table of genes, what its figures are drawn of, ranges of its maps.
import { GeneTable, intervalText } from "../../frontend/src/evaluation/genes";
import { range, residual } from "../../frontend/src/evaluation/maps";
import { boxesPlot, curvesPlot, errorsPlot, short } from "../../frontend/src/evaluation/plots";
import { element } from "../../frontend/src/shared/dom";
import type { DrawnSlide, EvaluationPage } from "../../frontend/src/evaluation/types";

beforeAll(() => {
  Object.defineProperty(navigator, "languages", { value: ["en-GB"], configurable: true });
});

const gene = (symbol: string, pcc: number | null, fields = {}): EvaluationPage["genes"][number] => ({
  gene: symbol, pcc, pcc_low: 0.1, pcc_high: 0.3, frozen_ridge_pcc: 0.1, neighbours_pcc: 0.5,
  ceiling_pcc: 0.7, scc: pcc, q: 0.01, spatial: 1, ...fields,
});

const page: EvaluationPage = {
  name: "PAST v1",
  genes: [gene("KRT8", 0.2), gene("CD3E", 0.4, { spatial: 0 }), gene("XIST", null)],
  titles: { frozen_ridge: "ridge on the frozen encoder", neighbours: "mean of measured neighbours (oracle)" },
  oracles: ["neighbours"],
  controls: { permuted: { pcc_q1: -0.01, pcc_median: 0, pcc_q3: 0.01 } },
  robustness: {
    clean: 0.3,
    curves: { blur: { unit: "µm", none: 0, points: [
      { level: 0.5, pcc: 0.28, difference: -0.02, low: -0.03, high: -0.01 },
      { level: 2, pcc: 0.2, difference: -0.1, low: -0.12, high: -0.08 },
    ] } },
  },
  errors: [{ share: 0, rmse: 2 }, { share: 0.5, rmse: 1.5 }, { share: 1, rmse: null }],
  full: true, gene_url: "", evaluate_url: "", gate_url: "",
};

describe("the table of genes", () => {
  const rows = (): string[] => [...document.querySelectorAll<HTMLElement>("#genes tbody tr")].map((row) => row.dataset.gene ?? "");
  const press = (label: string): void => {
    const found = [...document.querySelectorAll("#genes th button")].find((b) => b.textContent.startsWith(label));
    (found as HTMLButtonElement).click();
  };
  let chosen: string[];

  beforeEach(() => {
    document.body.replaceChildren(
      element("select", { id: "beside" }),
      element("input", { id: "gene-filter" }),
      element("p", { id: "gene-count" }),
      element("table", { id: "genes" }, element("thead"), element("tbody")),
    );
    chosen = [];
    new GeneTable(page, (symbol) => chosen.push(symbol));
  });

  it("begins with the best, and what has no score is last and says so", () => {
    expect(rows()).toEqual(["CD3E", "KRT8", "XIST"]);
    expect(document.querySelector("[data-gene=XIST]")?.textContent).toContain("not defined");
    expect(document.querySelector("[data-gene=CD3E]")?.textContent).toContain("(0.10 to 0.30)");
  });

  it("sorts by the difference to the baseline that is chosen", () => {
    const beside = document.querySelector<HTMLSelectElement>("#beside");
    expect(beside?.value).toBe("frozen_ridge");
    expect(document.querySelector("[data-gene=CD3E]")?.textContent).toContain("0.300");
    if (beside) beside.value = "neighbours";
    beside?.dispatchEvent(new Event("change"));
    expect(document.querySelector("[data-gene=CD3E]")?.textContent).toMatch(/[-−]0.100/);
    press("minus");
    expect(rows()[0]).toBe("CD3E");
    press("minus");
    expect(rows()).toEqual(["KRT8", "CD3E", "XIST"]);
  });

  it("filters, marks spatial genes, and gives the gene that is pressed", () => {
    const filter = document.querySelector<HTMLInputElement>("#gene-filter");
    if (filter) filter.value = "krt";
    filter?.dispatchEvent(new Event("input"));
    expect(rows()).toEqual(["KRT8"]);
    expect(document.querySelector("#gene-count")?.textContent).toBe("1 of 3 genes");
    expect(document.querySelector("[data-gene=KRT8] .badge-spatial")).not.toBeNull();
    document.querySelector<HTMLButtonElement>("[data-gene=KRT8] button")?.click();
    expect(chosen).toEqual(["KRT8"]);
  });

  it("says nothing of an interval that is not known", () => {
    expect(intervalText({ pcc: 0.2 })).toBe("");
  });
});

describe("figures", () => {
  it("have the ceiling and the model first, rivals by their median, nulls last", () => {
    const { data } = boxesPlot({ ...page, twins: { "null twin: counts permuted": [0, 0.01] } });
    expect(data.map(({ name }) => name)).toEqual([
      "ceiling", "PAST v1", "mean of measured neighbours", "the frozen encoder",
      "null twin: counts permuted", "null: permuted",
    ]);
    expect(data[1].x).toEqual([0.2, 0.4]);
  });

  it("shorten titles", () => {
    expect(short("ridge on stain and texture")).toBe("stain and texture");
    expect(short("mean of the training part")).toBe("mean");
  });

  it("show the loss of each change with its interval", () => {
    const robustness = page.robustness;
    if (!robustness) throw new Error("no curves");
    const [blur] = curvesPlot(robustness).data as { y: number[]; error_y: { array: number[] } }[];
    expect(blur.y).toEqual([-0.02, -0.1]);
    expect(blur.error_y.array[0]).toBeCloseTo(0.01);
  });

  it("leave out errors that are not known", () => {
    expect(errorsPlot(page.errors ?? []).data[0].x).toEqual([0, 50]);
  });
});

describe("maps", () => {
  it("span percentiles and never nothing", () => {
    const values = Array.from({ length: 101 }, (_, at) => at);
    expect(range([...values, null])).toEqual([1, 99]);
    expect(range([3, 3])).toEqual([3, 4]);
    expect(range([null])).toEqual([0, 1]);
  });

  it("have no difference where either value is missing", () => {
    const slide = { measured: [1, null, 2], predicted: [0.5, 1, null] } as unknown as DrawnSlide;
    expect(residual(slide)).toEqual([0.5, null, null]);
  });
});
