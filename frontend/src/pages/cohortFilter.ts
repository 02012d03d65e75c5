/** Which patients a set of facets and ranges leaves, and how many each facet value would leave. */

export interface Column {
  name: string;
  label: string;
  kind: "number" | "category";
  unit: string;
  levels: string[];
}

export interface Outcome {
  entry: number;
  time: number;
  cause: number;
}

export interface Patient {
  patient: string;
  site: string;
  values: Record<string, string | number>;
  outcomes: Record<string, Outcome>;
  slides: { id: number; code: string }[];
}

/** What is said where a value is missing; a patient can be filtered by that, too. */
export const MISSING = "missing";

export interface Facet {
  key: string;
  label: string;
  of: (patient: Patient) => string;
  /** Known order of the values; others follow as text. */
  levels: string[];
}

export interface Range {
  low: number | null;
  high: number | null;
}

export interface Filters {
  search: string;
  /** Facet key → values ticked; none ticked means all. */
  chosen: Map<string, Set<string>>;
  /** Number column → bounds, inclusive. A missing value passes only an open range. */
  ranges: Map<string, Range>;
}

export function facetsOf(columns: Column[], patients: Patient[]): Facet[] {
  const facets: Facet[] = columns
    .filter(({ kind }) => kind === "category")
    .map(({ name, label, levels }) => ({
      key: name,
      label,
      levels,
      of: ({ values }) => String(values[name] ?? MISSING),
    }));
  if (patients.some(({ site }) => site)) {
    facets.unshift({ key: "site", label: "Site", levels: [], of: ({ site }) => site || MISSING });
  }
  facets.push({
    key: "slides",
    label: "Slides",
    levels: ["with slides", "without slides"],
    of: ({ slides }) => (slides.length > 0 ? "with slides" : "without slides"),
  });
  return facets;
}

function inRange(value: string | number | undefined, { low, high }: Range): boolean {
  if (low === null && high === null) return true;
  return typeof value === "number" && value >= (low ?? -Infinity) && value <= (high ?? Infinity);
}

/** Whether a patient passes; the facet `except` is left out of the question. */
export function passes(
  patient: Patient,
  filters: Filters,
  facets: Facet[],
  except: string | null = null,
): boolean {
  if (!patient.patient.toLowerCase().includes(filters.search.trim().toLowerCase())) return false;
  for (const [name, range] of filters.ranges) {
    if (!inRange(patient.values[name], range)) return false;
  }
  return facets.every((facet) => {
    const chosen = filters.chosen.get(facet.key);
    return facet.key === except || !chosen?.size || chosen.has(facet.of(patient));
  });
}

/** Patients per value of a facet among those that all other filters leave, in the facet's order. */
export function facetCounts(
  facet: Facet,
  patients: Patient[],
  filters: Filters,
  facets: Facet[],
): [string, number][] {
  const counts = new Map<string, number>();
  for (const patient of patients) {
    const value = facet.of(patient);
    const counted = passes(patient, filters, facets, facet.key) ? 1 : 0;
    counts.set(value, (counts.get(value) ?? 0) + counted);
  }
  const rank = (value: string): number => {
    if (value === MISSING) return Infinity;
    const known = facet.levels.indexOf(value);
    return known < 0 ? facet.levels.length : known;
  };
  return [...counts].sort(
    ([a], [b]) => rank(a) - rank(b) || a.localeCompare(b, undefined, { numeric: true }),
  );
}
