import {
  facetCounts,
  facetsOf,
  MISSING,
  passes,
  type Column,
  type Filters,
  type Patient,
} from "../../frontend/src/pages/cohortFilter";

const COLUMNS: Column[] = [
  { name: "age", label: "Age", kind: "number", unit: "years", levels: [] },
  { name: "grade", label: "Grade", kind: "category", unit: "", levels: ["low", "high"] },
];

function patient(code: string, site: string, values: Patient["values"], slides = 0): Patient {
  const made = Array.from({ length: slides }, (_, id) => ({ id, code: `S${id}` }));
  return { patient: code, site, values, outcomes: {}, slides: made };
}

const PATIENTS = [
  patient("P1", "Lund", { age: 40, grade: "high" }, 1),
  patient("P2", "Lund", { age: 50, grade: "low" }),
  patient("P10", "Oslo", { age: 60, grade: "high" }, 2),
  patient("P11", "Oslo", { grade: "low" }),
  patient("P12", "Oslo", { age: 70 }),
];
const facets = facetsOf(COLUMNS, PATIENTS);
const facet = (key: string): (typeof facets)[number] => {
  const found = facets.find((one) => one.key === key);
  if (!found) throw new Error(`no facet ${key}`);
  return found;
};
const filters = (changes: Partial<Filters> = {}): Filters => ({
  search: "",
  chosen: new Map(),
  ranges: new Map(),
  ...changes,
});
const left = (changes: Partial<Filters>): string[] =>
  PATIENTS.filter((one) => passes(one, filters(changes), facets)).map((one) => one.patient);

describe("cohort filters", () => {
  it("offer the site, each category and whether there are slides", () => {
    expect(facets.map(({ key }) => key)).toEqual(["site", "grade", "slides"]);
    expect(facetsOf(COLUMNS, [patient("P", "", {})])[0].key).toBe("grade");
  });

  it("join values of a facet by or, and facets by and", () => {
    expect(left({ chosen: new Map([["grade", new Set(["low", "high"])]]) })).toEqual(["P1", "P2", "P10", "P11"]);
    const both = new Map([
      ["grade", new Set(["high"])],
      ["site", new Set(["Oslo"])],
    ]);
    expect(left({ chosen: both })).toEqual(["P10"]);
    expect(left({ chosen: new Map([["grade", new Set<string>()]]) })).toHaveLength(5);
  });

  it("find missing values, and leave them out of ranges", () => {
    expect(left({ chosen: new Map([["grade", new Set([MISSING])]]) })).toEqual(["P12"]);
    expect(left({ ranges: new Map([["age", { low: 50, high: null }]]) })).toEqual(["P2", "P10", "P12"]);
    expect(left({ ranges: new Map([["age", { low: null, high: null }]]) })).toHaveLength(5);
  });

  it("search a patient's code, whatever its case", () => {
    expect(left({ search: " p1 " })).toEqual(["P1", "P10", "P11", "P12"]);
  });

  it("count what each value would leave under the other filters, in the column's order", () => {
    const chosen = new Map([
      ["grade", new Set(["high"])],
      ["site", new Set(["Oslo"])],
    ]);
    expect(facetCounts(facet("grade"), PATIENTS, filters({ chosen }), facets)).toEqual([
      ["low", 1],
      ["high", 1],
      [MISSING, 1],
    ]);
    expect(facetCounts(facet("site"), PATIENTS, filters({ chosen }), facets)).toEqual([
      ["Lund", 1],
      ["Oslo", 1],
    ]);
  });
});
