import {
  byteOf,
  difference,
  histogram,
  valueAt,
  type Expression,
} from "../../frontend/src/viewer/expression";

/** Quantises as the layers do: value = offset + scale × byte. */
function quantised(values: number[], origin: Expression["origin"]): Expression {
  const [min, max] = [Math.min(...values), Math.max(...values)];
  const scale = (max - min) / 255 || 1;
  return {
    origin,
    symbol: "ERBB2",
    unit: "log1p(counts per 10,000)",
    bytes: Uint8Array.from(values, (value) => Math.round((value - min) / scale)),
    scale,
    offset: min,
    min,
    max,
    p01: min,
    p99: max,
    model: "",
    pearson: null,
  };
}

describe("quantised values", () => {
  it("come back within half a step", () => {
    const values = [0, 0.31, 2.5, 4.04, 6.1];
    const expression = quantised(values, "measured");
    values.forEach((value, row) => {
      expect(Math.abs(valueAt(expression, row) - value)).toBeLessThanOrEqual(expression.scale / 2);
    });
  });

  it("turn a range in the unit into one in bytes", () => {
    const expression = quantised([1, 6.1], "measured");
    expect(byteOf(expression, 1)).toBe(0);
    expect(byteOf(expression, 6.1)).toBeCloseTo(255, 9);
    expect(byteOf({ ...expression, scale: 0 }, 3)).toBe(0);
  });

  it("are counted per byte", () => {
    const counts = histogram(Uint8Array.from([0, 0, 7, 255]));
    expect([counts[0], counts[7], counts[255]]).toEqual([2, 1, 1]);
    expect(counts.reduce((sum, count) => sum + count)).toBe(4);
  });
});

describe("difference", () => {
  const measured = quantised([0, 1, 2, 3, 4], "measured");
  const predicted = quantised([1, 1, 1, 3, 2], "predicted");

  it("is predicted minus measured, with zero in the middle of the scale", () => {
    const gap = difference(predicted, measured);
    expect(gap.origin).toBe("difference");
    [1, 0, -1, 0, -2].forEach((value, row) => {
      expect(valueAt(gap, row)).toBeCloseTo(value, 1);
    });
    expect(byteOf(gap, 0)).toBeCloseTo(127, 9);
    expect(gap.p01).toBe(-gap.p99);
    expect(gap.p99).toBeCloseTo(2, 1);
  });

  it("of equal layers is zero everywhere", () => {
    const gap = difference({ ...measured, origin: "predicted" }, measured);
    for (let row = 0; row < 5; row++) expect(valueAt(gap, row)).toBe(0);
    expect(gap.p99).toBeGreaterThan(0);
  });

  it("refuses layers of other rows or another unit", () => {
    expect(() => difference(quantised([1, 2], "predicted"), measured)).toThrow(/rows/);
    expect(() => difference({ ...predicted, unit: "z-score" }, measured)).toThrow(/units/);
  });
});
