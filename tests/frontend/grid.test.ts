import { PointGrid } from "../../frontend/src/viewer/grid";

/** Park–Miller: the same points on every run. */
function randoms(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}

function cloud(count: number, width: number, height: number): { x: Float32Array; y: Float32Array } {
  const random = randoms(count + 1);
  const x = Float32Array.from({ length: count }, () => 500 + random() * width);
  const y = Float32Array.from({ length: count }, () => 900 + random() * height);
  return { x, y };
}

function nearestByHand(x: Float32Array, y: Float32Array, at: [number, number], radius: number): number {
  let [best, bestSquared] = [-1, radius ** 2];
  x.forEach((_, row) => {
    const squared = (x[row] - at[0]) ** 2 + (y[row] - at[1]) ** 2;
    if (squared <= bestSquared) [best, bestSquared] = [row, squared];
  });
  return best;
}

describe("PointGrid", () => {
  const { x, y } = cloud(5000, 40_000, 2_000);
  const grid = new PointGrid(x, y);

  it("orders every row exactly once", () => {
    expect([...grid.order].sort((a, b) => a - b)).toEqual(Array.from(x, (_, row) => row));
  });

  it("finds the nearest point, and none beyond the radius", () => {
    const random = randoms(11);
    let found = 0;
    for (let trial = 0; trial < 300; trial++) {
      const at: [number, number] = [random() * 42_000, random() * 4_000];
      const row = grid.nearest(at[0], at[1], 60);
      expect(row).toBe(nearestByHand(x, y, at, 60));
      if (row >= 0) found++;
    }
    expect(found).toBeGreaterThan(50);
    expect(found).toBeLessThan(300);
  });

  it("gives runs that hold every point of a rectangle and few others", () => {
    const box = { left: 9_000, right: 14_000, top: 1_200, bottom: 1_900 };
    const rows = new Set<number>();
    for (const { start, end } of grid.runs(box)) {
      for (let position = start; position < end; position++) rows.add(grid.order[position]);
    }
    const inside = [...x.keys()].filter(
      (row) => x[row] >= box.left && x[row] <= box.right && y[row] >= box.top && y[row] <= box.bottom,
    );
    expect(inside.every((row) => rows.has(row))).toBe(true);
    expect(rows.size).toBeLessThan(x.length / 4);
    expect(grid.count(box, () => true)).toBe(inside.length);
    expect(grid.count(box, (row) => row % 2 === 0)).toBe(inside.filter((row) => row % 2 === 0).length);
  });

  it("gives nothing outside, and everything for everything", () => {
    expect(grid.runs({ left: -500, right: -100, top: 0, bottom: 5_000 })).toEqual([]);
    const all = grid.runs({ left: 0, right: 50_000, top: 0, bottom: 5_000 });
    expect(all).toEqual([{ start: 0, end: 5000 }]);
  });

  it("bears no points, one point, and points on one spot", () => {
    const none = new PointGrid(new Float32Array(), new Float32Array());
    expect(none.nearest(0, 0, 100)).toBe(-1);
    expect(none.runs({ left: 0, right: 9, top: 0, bottom: 9 })).toEqual([]);
    const same = new PointGrid(new Float32Array([5, 5]), new Float32Array([6, 6]));
    expect(same.nearest(5, 7, 2)).toBeGreaterThanOrEqual(0);
    expect(same.count({ left: 0, right: 9, top: 0, bottom: 9 }, () => true)).toBe(2);
  });
});
