// @vitest-environment happy-dom
// What the landing page computes: colours of the pictures, the slides shown, words of the curve.
import { described, entries, viewerLink, type HeldOut } from "../../frontend/src/landing/picture";
import { countText, matches } from "../../frontend/src/landing/slides";
import { leftOutText, testText } from "../../frontend/src/landing/words";
import type { Analysis } from "../../frontend/src/survival/types";
import type { Expression } from "../../frontend/src/viewer/expression";
import { fromQuery } from "../../frontend/src/viewer/permalink";

beforeAll(() => {
  Object.defineProperty(navigator, "languages", { value: ["en-GB"], configurable: true });
});

const expression = (bytes: number[]): Expression => ({
  origin: "measured", symbol: "CD3E", unit: "log1p", bytes: Uint8Array.from(bytes),
  scale: 0.01, offset: 0, min: 0, max: 2.55, p01: 0, p99: 2, model: "", pearson: null,
});

const held = {
  slide: { code: "P002-section", url: "/slides/7/" },
  table: { id: 3, row_kind: "cell" },
  layer: { id: 9 },
} as HeldOut;

describe("the pictures", () => {
  it("take the colours of one range, also for values beyond it", () => {
    const at = entries(expression([]), { low: 0.5, high: 1.5 });
    expect([at[0], at[50], at[100], at[150], at[255]]).toEqual([0, 0, 128, 255, 255]);
  });

  it("do not divide by nothing where the range is empty", () => {
    expect([...entries(expression([]), { low: 1, high: 1 })].every(Number.isFinite)).toBe(true);
  });

  it("lead to the viewer with measured and predicted side by side", () => {
    const [path, query] = viewerLink(held, "HLA-DRA").split("?");
    const state = fromQuery(query);
    expect(path).toBe("/slides/7/");
    expect(state).toMatchObject({ gene: "HLA-DRA", table: 3, layer: 9, split: true });
  });

  it("are described for those who do not see them", () => {
    const text = described("measured", held, expression([0, 0, 100, 100, 200]));
    expect(text).toBe(
      "CD3E, measured, on 5 cells of slide P002-section: median 1.00, 99th percentile 2.00 log1p",
    );
  });
});

describe("the table of slides", () => {
  const core = { find: "P031-core-MKI67 P031 MKI67", stain: "IHC" };

  it.each([
    ["", "", true],
    ["mki67 p031", "", true],
    ["P031", "IHC", true],
    ["P031", "H&E", false],
    ["P032", "", false],
  ])("finds %j with stain %j: %j", (text, stain, found) => {
    expect(matches(core, text, stain)).toBe(found);
  });

  it("says how many are shown", () => {
    expect(countText(50, 312, 312)).toBe("The first 50 of 312 slides");
    expect(countText(50, 240, 312)).toBe("The first 50 of 240 slides of 312");
    expect(countText(1, 1, 312)).toBe("1 slide of 312");
    expect(countText(0, 0, 312)).toBe("No slide matches this filter.");
  });
});

describe("the words of the curve", () => {
  const analysis = {
    n: 228,
    n_cohort: 240,
    log_rank: { test: "log-rank", p_text: "0.004" },
    hazard_ratios: [{ ratio: 1.9, text: "1.90 (1.20 to 3.00)", label: "High", reference: "Low" }],
    exclusions: [{ reason: "trained PAST v1", n: 12, patients: [] }],
  } as unknown as Analysis;

  it("give the test and the hazard ratio", () => {
    expect(testText(analysis)).toBe(
      "Log-rank p = 0.004; hazard ratio 1.90 (1.20 to 3.00), High against Low",
    );
    const small = { ...analysis, log_rank: { test: "log-rank", p_text: "< 0.0001" } };
    const none = { ratio: null, text: "Too few events.", label: "High", reference: "Low" };
    expect(testText({ ...small, hazard_ratios: [none] } as unknown as Analysis)).toBe(
      "Log-rank p < 0.0001; no hazard ratio. Too few events.",
    );
    expect(testText({ ...small, hazard_ratios: [] } as unknown as Analysis)).toBe(
      "Log-rank p < 0.0001",
    );
    expect(testText({ ...analysis, log_rank: null })).toBe("");
  });

  it("say who was left out", () => {
    expect(leftOutText(analysis)).toBe("228 of 240 patients. Left out: 12 (trained PAST v1).");
    expect(leftOutText({ ...analysis, exclusions: [] })).toBe("228 of 240 patients.");
  });
});
