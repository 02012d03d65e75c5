import { ticks } from "../../frontend/src/shared/lineChart";
import { compareValues } from "../../frontend/src/shared/sortable";

describe("compareValues", () => {
  const sorted = (values: (string | number | null)[], direction: "ascending" | "descending") =>
    [...values].sort((a, b) => compareValues(a, b, direction));

  it("puts missing values last in either direction", () => {
    expect(sorted([3, null, 1, 2], "ascending")).toEqual([1, 2, 3, null]);
    expect(sorted([3, null, 1, 2], "descending")).toEqual([3, 2, 1, null]);
  });

  it("orders codes as people count", () => {
    expect(sorted(["P10", "P2", "", "P1"], "ascending")).toEqual(["P1", "P2", "P10", ""]);
  });
});

describe("ticks", () => {
  it("are round and cover the values", () => {
    expect(ticks(0, 1, 4)).toEqual([0, 0.5, 1]);
    expect(ticks(0.13, 0.29, 4)).toEqual([0.1, 0.15, 0.2, 0.25, 0.3]);
    expect(ticks(-3, 12, 5)).toEqual([-5, 0, 5, 10, 15]);
  });

  it("bear a constant series", () => {
    for (const value of [0, 2.5, -7]) {
      const found = ticks(value, value, 4);
      expect(found.length).toBeGreaterThan(1);
      expect(found[0]).toBeLessThanOrEqual(value);
      expect(found[found.length - 1]).toBeGreaterThanOrEqual(value);
    }
  });
});
