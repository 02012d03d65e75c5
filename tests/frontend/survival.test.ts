import { cutAt, dividedBy, optionText, originOf, typedMonths, typedNumber, withLevels } from "../../frontend/src/survival/request";
import { dashArray } from "../../frontend/src/survival/key";
import { stepsOf, survivalAt } from "../../frontend/src/survival/readout";
import { columnsUnder } from "../../frontend/src/survival/riskTable";
import type { KmRequest, StratifierOption, Trace } from "../../frontend/src/survival/types";

const request: KmRequest = {
  endpoint: "OS",
  stratifier: { source: "measured", table: 1, name: "ESR1" },
  cut: "value",
  value: 2,
  levels: ["I"],
  horizon: 60,
  landmark: 6,
  causes: [1],
  include_training: true,
};

describe("changes of a request", () => {
  it("starts a new stratifier from its own default cut and keeps the rest of the question", () => {
    const stratifier = { source: "clinical", table: null, name: "age" } as const;
    expect(dividedBy(request, stratifier)).toEqual({
      ...request,
      stratifier,
      cut: null,
      value: null,
      levels: [],
      include_training: false,
    });
    expect(dividedBy(request, null).stratifier).toBeNull();
  });

  it("waits for the value of a cut of one's own, and forgets it with another cut", () => {
    expect(cutAt(request, "value", null)).toBeNull();
    expect(cutAt(request, "value", 0)).toMatchObject({ cut: "value", value: 0 });
    expect(cutAt(request, "tertiles", 3)).toMatchObject({ cut: "tertiles", value: null });
  });

  it("treats all levels as no choice", () => {
    expect(withLevels(request, ["I", "II"], ["I", "II"]).levels).toEqual([]);
    expect(withLevels(request, ["II"], ["I", "II"]).levels).toEqual(["II"]);
  });

  it("reads numbers, and months only above 0", () => {
    expect([typedNumber(" 1.5 "), typedNumber("0"), typedNumber(""), typedNumber("x")]).toEqual([
      1.5, 0, null, null,
    ]);
    expect([typedMonths("12"), typedMonths("0"), typedMonths("-3"), typedMonths("")]).toEqual([
      12, null, null, null,
    ]);
  });
});

describe("names of options", () => {
  const option = (changes: Partial<StratifierOption>): StratifierOption => ({
    source: "measured", table: 1, table_name: "bulk RNA", name: "ESR1", label: "ESR1", unit: "",
    model: "", numeric: true, levels: [], ...changes,
  });

  it("tell measured, two predictions and a risk apart", () => {
    const options = [
      option({}),
      option({ source: "predicted", model: "PAST v1" }),
      option({ source: "predicted", model: "PAST v2" }),
      option({ source: "risk", name: "risk", table_name: "OS risk model 1" }),
    ];
    expect(new Set(options.map(optionText)).size).toBe(4);
    expect(options.map(originOf)).toEqual([
      "measured · bulk RNA", "predicted · PAST v1", "predicted · PAST v2", "predicted · OS risk model 1",
    ]);
  });
});

describe("columns of the at-risk table", () => {
  const centres = (ticks: number[], left: number, width: number, range: [number, number]): number[] => {
    const { label, numbers, padding } = columnsUnder(ticks, { left, width, range });
    let x = label;
    return numbers.map((column, index) => {
      const centre = x + (column - padding[index]) / 2;
      x += column;
      return centre;
    });
  };

  it("put the middle of every number at its tick", () => {
    expect(centres([0, 24, 48, 72], 100, 800, [0, 80])).toEqual([100, 340, 580, 820]);
  });

  it("do so when ticks are closer than a number is wide", () => {
    const found = centres([0, 1, 2, 3], 100, 90, [0, 3]);
    [100, 130, 160, 190].forEach((x, index) => expect(found[index]).toBeCloseTo(x));
  });

  it("do so on an axis that does not begin at 0, and for a single tick", () => {
    expect(centres([12, 24], 50, 200, [12, 32])).toEqual([50, 170]);
    expect(centres([0], 50, 200, [0, 1])).toEqual([50]);
  });
});

describe("reading a curve under the pointer", () => {
  const trace = (part: Trace["meta"]["part"], x: number[], y: number[], group = "0"): Trace => ({
    x, y, legendgroup: group, meta: { part },
  });
  const [steps, other] = stepsOf(
    [
      trace("band", [0, 9], [100, 9]),
      trace("curve", [0, 5, 10], [100, 80, 80]),
      trace("tail", [10, 12, 20], [80, 40, 40]),
      trace("censored", [7], [80]),
      trace("curve", [0, 30], [100, 100], "1"),
    ],
    ["low", "high"],
  );

  it("takes the last step at or before the month, on the curve and on its tail", () => {
    expect([0, 4.9, 5, 11.9, 12, 20].map((month) => survivalAt(steps, month))).toEqual([
      100, 100, 80, 80, 40, 40,
    ]);
    expect(survivalAt(other, 29)).toBe(100);
  });

  it("says nothing beyond the follow-up", () => {
    expect([survivalAt(steps, 20.1), survivalAt(steps, -1)]).toEqual([null, null]);
  });
});

it("turns Plotly's dashes into SVG's", () => {
  expect([dashArray("solid"), dashArray("8px,4px")]).toEqual(["", "8 4"]);
});
