import {
  afterClick,
  NOT_ASSIGNED,
  paletteOf,
  typeColours,
  trustOf,
  typeCounts,
  type CellTypes,
} from "../../frontend/src/viewer/annotations";

const types: CellTypes = {
  origin: "predicted",
  names: ["B cell", "tumour", "T cell"],
  codes: Uint8Array.of(1, 1, 2, NOT_ASSIGNED, 1, 2),
  probability: null,
  model: "PAST v1",
};

describe("the legend", () => {
  it("lists the most frequent type first, absent ones too, and what has none last", () => {
    expect(typeCounts(types).map(({ name, rows }) => [name, rows])).toEqual([
      ["tumour", 3],
      ["T cell", 2],
      ["B cell", 0],
      ["not assigned", 1],
    ]);
  });

  it("hides and shows by a click", () => {
    const codes = [0, 1, 2, NOT_ASSIGNED];
    const hidden = afterClick(new Set(), 1, codes, false);
    expect([...hidden]).toEqual([1]);
    expect(afterClick(hidden, 1, codes, false).size).toBe(0);
  });

  it("leaves a type alone, and brings the others back at the second time", () => {
    const codes = [0, 1, 2, NOT_ASSIGNED];
    const alone = afterClick(new Set([1]), 1, codes, true);
    expect([...alone].sort((a, b) => a - b)).toEqual([0, 2, NOT_ASSIGNED]);
    expect(afterClick(alone, 1, codes, true).size).toBe(0);
  });
});

describe("colours", () => {
  it("differ between the first thirty types, and are transparent where hidden", () => {
    const names = Array.from({ length: 30 }, (_, number) => `type ${number}`);
    expect(new Set(paletteOf(names).map((rgb) => rgb.join())).size).toBe(30);
    const table = typeColours(types.names, new Set([2]));
    expect([table[1 * 4 + 3], table[2 * 4 + 3], table[NOT_ASSIGNED * 4 + 3]]).toEqual([255, 0, 255]);
    expect(paletteOf(["tumour", "B cell"])[0]).toEqual(paletteOf(types.names)[1]);
    expect([...table.slice(NOT_ASSIGNED * 4, NOT_ASSIGNED * 4 + 3)]).toEqual([247, 247, 247]);
  });
});

describe("up to seven types", () => {
  it("take the seven colours that are easiest to tell apart", () => {
    const demo = ["tumour", "T cell", "B cell", "plasma cell", "macrophage", "fibroblast", "endothelial"];
    const hex = paletteOf(demo).map((rgb) => rgb.map((n) => n.toString(16).padStart(2, "0")).join(""));
    expect(hex.sort()).toEqual(
      ["e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "882255"].sort(),
    );
    expect(new Set(paletteOf([...demo, "mast cell"]).map((rgb) => rgb.join())).size).toBe(8);
  });
});

describe("trust", () => {
  it("greys from 128 on", () => {
    const trust = trustOf(Uint8Array.of(0, 127, 128, 255));
    expect([...trust.mask]).toEqual([0, 0, 255, 255]);
    expect(trust.beyond).toBe(2);
  });
});
