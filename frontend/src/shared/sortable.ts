/** Tables that sort by a press on the column's head: numbers by value, the rest as text. */
import { element } from "./dom";

export type Direction = "ascending" | "descending";
export type SortValue = string | number | null;

/** Missing values last in either direction; text as people order it ("P2" before "P10"). */
export function compareValues(a: SortValue, b: SortValue, direction: Direction): number {
  const [noA, noB] = [a === null || a === "", b === null || b === ""];
  if (noA || noB) return Number(noA) - Number(noB);
  const order =
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), undefined, { numeric: true });
  return direction === "ascending" ? order : -order;
}

/** Puts a button into a head cell; `sort` is called with the new direction. */
export function sortButton(
  head: HTMLTableCellElement,
  first: Direction,
  sort: (direction: Direction) => void,
): void {
  const button = element("button", { type: "button", class: "sort" });
  button.append(...head.childNodes);
  head.appendChild(button);
  button.addEventListener("click", () => {
    const present = head.getAttribute("aria-sort");
    const other = first === "ascending" ? "descending" : "ascending";
    const direction = present === first ? other : first;
    for (const cell of head.parentElement?.children ?? []) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    sort(direction);
  });
}

/** Sorts the rows that the server rendered, by `data-value`, a `<data value>` or the text; the table
 * then gets an event "sorted". */
export function makeSortable(root: ParentNode): void {
  for (const table of root.querySelectorAll<HTMLTableElement>("table[data-sortable]")) {
    const body = table.tBodies[0];
    for (const head of table.querySelectorAll<HTMLTableCellElement>("th[data-sort]")) {
      const isNumber = head.classList.contains("num");
      sortButton(head, isNumber ? "descending" : "ascending", (direction) => {
        const column = head.cellIndex;
        const rows = [...body.rows].map((row) => ({ row, value: cellValue(row.cells[column], isNumber) }));
        rows.sort((a, b) => compareValues(a.value, b.value, direction));
        body.append(...rows.map(({ row }) => row));
        table.dispatchEvent(new Event("sorted"));
      });
    }
  }
}

function cellValue(cell: HTMLTableCellElement, isNumber: boolean): SortValue {
  const text =
    cell.dataset.value ?? cell.querySelector("data")?.value ?? cell.textContent.trim();
  if (!isNumber) return text;
  const value = Number(text);
  return text === "" || Number.isNaN(value) ? null : value;
}
