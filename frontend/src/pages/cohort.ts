/** The cohort table: facets with counts, search, sort, columns to choose. */
import { byId, element, pageData } from "../shared/dom";
import { formatFixed, formatNumber } from "../shared/format";
import { compareValues, sortButton, type Direction, type SortValue } from "../shared/sortable";
import {
  facetCounts,
  facetsOf,
  passes,
  type Column,
  type Facet,
  type Filters,
  type Patient,
} from "./cohortFilter";

const ROWS_AT_ONCE = 200;

interface Endpoint {
  code: string;
  label: string;
  time_zero: string;
  causes: Record<string, string>;
}

interface CohortPage {
  slug: string;
  columns: Column[];
  endpoints: Endpoint[];
  rows: Patient[];
}

/** A column of the table: how it sorts, and what it shows. */
interface Shown {
  key: string;
  label: string;
  title: string;
  numeric: boolean;
  sortBy: (patient: Patient) => SortValue;
  cell: (patient: Patient) => Node | string;
}

const page = pageData<CohortPage>();
const facets = facetsOf(page.columns, page.rows);
const filters: Filters = { search: "", chosen: new Map(), ranges: new Map() };
const columns = allColumns();
const visible = new Set(columns.map(({ key }) => key));
let sorted: { column: Shown; direction: Direction } = { column: columns[0], direction: "ascending" };
let rowsShown = ROWS_AT_ONCE;

function plain(
  key: string,
  label: string,
  value: (patient: Patient) => SortValue,
  numeric = false,
): Shown {
  return {
    key,
    label,
    title: "",
    numeric,
    sortBy: value,
    cell: (patient) => {
      const found = value(patient);
      return typeof found === "number" ? formatNumber(found) : (found ?? "–");
    },
  };
}

function outcomeColumn({ code, label, time_zero, causes }: Endpoint): Shown {
  return {
    key: `outcome:${code}`,
    label: `${code}, months`,
    title: `${label} since ${time_zero}`,
    numeric: true,
    sortBy: ({ outcomes }) => (code in outcomes ? outcomes[code].time : null),
    cell: ({ outcomes }) => {
      if (!(code in outcomes)) return "–";
      const { time, cause } = outcomes[code];
      return `${formatFixed(time, 1)} ${cause === 0 ? "censored" : (causes[String(cause)] ?? `cause ${cause}`)}`;
    },
  };
}

function slideLinks({ slides }: Patient): Node {
  if (slides.length === 0) return document.createTextNode("–");
  const links = slides.map(({ id, code }) => element("a", { href: `/slides/${id}/` }, code));
  return element("span", { class: "row" }, ...links);
}

function allColumns(): Shown[] {
  return [
    plain("patient", "Patient", ({ patient }) => patient),
    ...(page.rows.some(({ site }) => site) ? [plain("site", "Site", ({ site }) => site || null)] : []),
    ...page.columns.map(({ name, label, unit, kind }) =>
      plain(name, unit ? `${label}, ${unit}` : label, ({ values }) => values[name] ?? null, kind === "number"),
    ),
    ...page.endpoints.map(outcomeColumn),
    {
      key: "slides",
      label: "Slides",
      title: "",
      numeric: false,
      sortBy: ({ slides }) => slides.length,
      cell: slideLinks,
    },
  ];
}

function buildHead(): void {
  const heads = columns
    .filter(({ key }) => visible.has(key))
    .map((column) => {
      const head = element("th", { scope: "col", class: column.numeric ? "num" : undefined }, column.label);
      if (column.title) head.title = column.title;
      sortButton(head, "ascending", (direction) => {
        sorted = { column, direction };
        fill();
      });
      if (column === sorted.column) head.setAttribute("aria-sort", sorted.direction);
      return head;
    });
  byId<HTMLTableElement>("patients").tHead?.replaceChildren(element("tr", {}, ...heads));
}

function fill(): void {
  const found = page.rows.filter((patient) => passes(patient, filters, facets));
  const { column, direction } = sorted;
  found.sort((a, b) => compareValues(column.sortBy(a), column.sortBy(b), direction));
  const shown = columns.filter(({ key }) => visible.has(key));
  const rows = found.slice(0, rowsShown).map((patient) =>
    element(
      "tr",
      {},
      ...shown.map((one) => element("td", { class: one.numeric ? "num" : undefined }, one.cell(patient))),
    ),
  );
  byId<HTMLTableElement>("patients").tBodies[0].replaceChildren(...rows);
  byId("shown").textContent = `${formatNumber(found.length)} of ${formatNumber(page.rows.length)} patients`;
  byId("none").hidden = found.length > 0;
  const more = byId("more");
  more.hidden = found.length <= rowsShown;
  more.textContent = `Show all ${formatNumber(found.length)} (first ${formatNumber(rowsShown)} shown)`;
}

function refresh(): void {
  rowsShown = ROWS_AT_ONCE;
  fill();
  for (const facet of facets) showCounts(facet);
  const chosen = [...filters.chosen.values()].some(({ size }) => size > 0);
  const ranged = [...filters.ranges.values()].some(({ low, high }) => low !== null || high !== null);
  byId<HTMLButtonElement>("clear").disabled = !chosen && !ranged && !filters.search;
}

function showCounts(facet: Facet): void {
  const place = byId(`facet-${facet.key}`);
  const chosen = filters.chosen.get(facet.key) ?? new Set<string>();
  const focused = (document.activeElement as HTMLInputElement | null)?.value;
  const hadFocus = place.contains(document.activeElement);
  place.replaceChildren(
    ...facetCounts(facet, page.rows, filters, facets).map(([value, count]) => {
      const box = element("input", { type: "checkbox", value });
      box.checked = chosen.has(value);
      box.addEventListener("change", () => {
        if (box.checked) chosen.add(value);
        else chosen.delete(value);
        filters.chosen.set(facet.key, chosen);
        refresh();
      });
      const label = element("label", { class: "check facet-value" }, box, element("span", {}, value));
      label.appendChild(element("span", { class: "muted number" }, formatNumber(count)));
      return label;
    }),
  );
  if (!hadFocus) return;
  // Rebuilt under the keyboard user's hands: the box they were on keeps the focus.
  [...place.querySelectorAll("input")].find(({ value }) => value === focused)?.focus();
}

function rangeField({ name, label, unit }: Column): HTMLElement {
  const values = page.rows.flatMap(({ values: all }) => (typeof all[name] === "number" ? [all[name]] : []));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const bound = (side: "low" | "high", limit: number): HTMLInputElement => {
    const input = element("input", {
      type: "number",
      step: "any",
      placeholder: formatNumber(limit),
      "aria-label": `${label}, ${side === "low" ? "from" : "to"}`,
    });
    input.addEventListener("input", () => {
      const range = filters.ranges.get(name) ?? { low: null, high: null };
      range[side] = input.value === "" ? null : Number(input.value);
      filters.ranges.set(name, range);
      refresh();
    });
    return input;
  };
  return element(
    "fieldset",
    {},
    element("legend", { class: "label" }, unit ? `${label}, ${unit}` : label),
    element("div", { class: "range-fields" }, bound("low", low), element("span", {}, "to"), bound("high", high)),
  );
}

function buildFacets(): void {
  const fields = [
    ...facets.map((facet) =>
      element(
        "fieldset",
        {},
        element("legend", { class: "label" }, facet.label),
        element("div", { id: `facet-${facet.key}`, class: "facet-values" }),
      ),
    ),
    ...page.columns.filter(({ kind }) => kind === "number").map(rangeField),
  ];
  byId("facets").replaceChildren(...fields);
}

function buildChooser(): void {
  byId("columns").replaceChildren(
    ...columns.slice(1).map(({ key, label }) => {
      const box = element("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => {
        if (box.checked) visible.add(key);
        else visible.delete(key);
        buildHead();
        fill();
      });
      return element("label", { class: "check" }, box, label);
    }),
  );
}

export function start(): void {
  if (page.rows.length === 0) return;
  buildFacets();
  buildChooser();
  buildHead();
  refresh();
  const search = byId<HTMLInputElement>("search");
  search.addEventListener("input", () => {
    filters.search = search.value;
    refresh();
  });
  byId("clear").addEventListener("click", () => {
    filters.search = search.value = "";
    filters.chosen.clear();
    filters.ranges.clear();
    buildFacets();
    refresh();
  });
  byId("more").addEventListener("click", () => {
    rowsShown = Infinity;
    fill();
  });
}
