/** The table of slides: filtered by text and stain, the first fifty of hundreds until asked. */
import { byId } from "../shared/dom";
import { formatFixed, formatNumber } from "../shared/format";

export interface Row {
  find: string;
  stain: string;
}

/** Whether every word of the text is found, and the stain is the one asked for ("": any). */
export function matches(row: Row, text: string, stain: string): boolean {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = row.find.toLowerCase();
  return (stain === "" || row.stain === stain) && words.every((word) => found.includes(word));
}

/** "The first 50 of 312 slides", "3 slides of 312", "312 slides". */
export function countText(shown: number, matching: number, all: number): string {
  const [s, m, a] = [shown, matching, all].map((n) => formatNumber(n));
  const name = matching === 1 ? "slide" : "slides";
  if (matching === 0) return "No slide matches this filter.";
  const total = matching < all ? `${m} ${name} of ${a}` : `${m} ${name}`;
  return shown < matching ? `The first ${s} of ${total}` : total;
}

export class SlideTable {
  private readonly rows = [...document.querySelectorAll<HTMLTableRowElement>("#slides tbody tr")];
  private readonly text = document.querySelector<HTMLInputElement>("#slide-filter");
  private readonly stain = document.querySelector<HTMLSelectElement>("#stain-filter");
  private all = false;

  constructor(private readonly atFirst: number) {
    this.text?.addEventListener("input", () => this.show());
    this.stain?.addEventListener("change", () => this.show());
    byId("slides").addEventListener("sorted", () => this.show());
    byId("slides-all").addEventListener("click", () => {
      this.all = true;
      this.show();
    });
    showSizes(this.rows);
    this.show();
  }

  /** Rows that pass the filter, in the table's order, shown or not. */
  get matching(): HTMLTableRowElement[] {
    const [text, stain] = [this.text?.value ?? "", this.stain?.value ?? ""];
    const order = [...(this.rows.at(0)?.parentElement?.children ?? [])] as HTMLTableRowElement[];
    return order.filter(({ dataset }) =>
      matches({ find: dataset.find ?? "", stain: dataset.stain ?? "" }, text, stain),
    );
  }

  private show(): void {
    const found = this.matching;
    const shown = new Set(this.all ? found : found.slice(0, this.atFirst));
    for (const row of this.rows) row.hidden = !shown.has(row);
    byId("slides-shown").textContent = countText(shown.size, found.length, this.rows.length);
    byId("slides-all").hidden = shown.size === found.length;
  }
}

/** Sizes of the slides in millimetres, from pixels and microns per pixel; sorted by area. */
function showSizes(rows: HTMLTableRowElement[]): void {
  for (const row of rows) {
    const cell = row.querySelector<HTMLElement>("td[data-mpp]");
    if (!cell) continue;
    const { width, height, mpp } = cell.dataset;
    const [w, h] = [width, height].map((pixels) => (Number(pixels) * Number(mpp)) / 1000);
    cell.textContent = `${formatFixed(w, 1)} × ${formatFixed(h, 1)}`;
    cell.dataset.value = String(w * h);
  }
}
