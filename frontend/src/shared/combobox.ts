/**
 * A search field with a list, after the ARIA combobox pattern: typing searches, arrows move, Enter
 * takes the marked option or the typed text, Escape closes.
 */
import { element } from "./dom";
import { toastError } from "./toast";

const TYPING_PAUSE_MS = 90;

export interface Option {
  value: string;
  /** Said after the value, e.g. "measured, predicted". */
  note?: string;
}

export interface ComboboxOptions {
  input: HTMLInputElement;
  search: (text: string) => Promise<Option[]>;
  choose: (value: string) => void;
  /** Shown when nothing matches. */
  none: (text: string) => string;
}

let lists = 0;

export class Combobox {
  private readonly list: HTMLUListElement;
  private options: Option[] = [];
  private marked = -1;
  private asked = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly settings: ComboboxOptions) {
    const { input } = settings;
    const id = `combobox-list-${++lists}`;
    this.list = element("ul", { class: "combobox-list", role: "listbox", id, hidden: true });
    this.list.setAttribute("aria-label", "Matches");
    input.insertAdjacentElement("afterend", this.list);
    input.setAttribute("role", "combobox");
    input.setAttribute("aria-autocomplete", "list");
    input.setAttribute("aria-expanded", "false");
    input.setAttribute("aria-controls", id);
    input.autocomplete = "off";
    input.spellcheck = false;
    input.addEventListener("input", () => this.searchSoon());
    input.addEventListener("focus", () => {
      input.select();
      this.searchSoon();
    });
    input.addEventListener("blur", () => this.close());
    input.addEventListener("keydown", (event) => this.onKey(event));
    // Pressing on the list must not take the focus from the field, which would close the list.
    this.list.addEventListener("mousedown", (event) => event.preventDefault());
    this.list.addEventListener("click", (event) => {
      const item = (event.target as Element).closest<HTMLElement>("[role=option]");
      if (item?.dataset.value) this.take(item.dataset.value);
    });
  }

  private searchSoon(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.refresh().catch(toastError), TYPING_PAUSE_MS);
  }

  /** Searches for what stands in the field; false when a later search overtook this one. */
  private async refresh(): Promise<boolean> {
    const turn = ++this.asked;
    const text = this.settings.input.value.trim();
    const found = await this.settings.search(text);
    if (turn !== this.asked) return false;
    this.options = found;
    this.marked = -1;
    if (document.activeElement === this.settings.input) this.render(text);
    return true;
  }

  private render(text: string): void {
    const items = this.options.map((option, index) => {
      const item = element(
        "li",
        { role: "option", id: `${this.list.id}-${index}`, "data-value": option.value },
        element("span", {}, option.value),
        option.note ? element("span", { class: "muted small" }, option.note) : null,
      );
      item.setAttribute("aria-selected", String(index === this.marked));
      return item;
    });
    const none = element("li", { class: "combobox-none" }, this.settings.none(text));
    this.list.replaceChildren(...(items.length > 0 ? items : [none]));
    this.list.hidden = false;
    this.settings.input.setAttribute("aria-expanded", "true");
    this.mark(this.marked);
  }

  private mark(index: number): void {
    this.marked = index;
    [...this.list.children].forEach((item, at) => {
      if (item.role === "option") item.setAttribute("aria-selected", String(at === index));
    });
    const current = index >= 0 ? this.list.children[index] : null;
    if (current) {
      this.settings.input.setAttribute("aria-activedescendant", current.id);
      current.scrollIntoView({ block: "nearest" });
    } else {
      this.settings.input.removeAttribute("aria-activedescendant");
    }
  }

  private onKey(event: KeyboardEvent): void {
    const open = !this.list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const count = this.options.length;
      if (!open) this.searchSoon();
      else if (count > 0) {
        const step = event.key === "ArrowDown" ? 1 : -1;
        const from = this.marked < 0 && step < 0 ? count : this.marked;
        this.mark((from + step + count) % count);
      }
    } else if (event.key === "Enter") {
      event.preventDefault();
      void this.enter().catch(toastError);
    } else if (event.key === "Escape" && open) {
      event.stopPropagation();
      this.close();
    }
  }

  /** Enter: the marked option, else an exact match (case apart), else the first that matches. */
  private async enter(): Promise<void> {
    const marked = this.marked >= 0 ? this.options[this.marked] : undefined;
    if (marked) {
      this.take(marked.value);
      return;
    }
    clearTimeout(this.timer);
    const text = this.settings.input.value.trim();
    if (!text || !(await this.refresh())) return;
    const exact = this.options.find(({ value }) => value.toLowerCase() === text.toLowerCase());
    const choice = exact ?? this.options.at(0);
    if (choice) this.take(choice.value);
    else this.render(text);
  }

  private take(value: string): void {
    clearTimeout(this.timer);
    this.asked++;
    this.settings.input.value = value;
    this.settings.input.removeAttribute("aria-activedescendant");
    this.close();
    this.settings.choose(value);
  }

  private close(): void {
    clearTimeout(this.timer);
    this.list.hidden = true;
    this.marked = -1;
    this.settings.input.setAttribute("aria-expanded", "false");
    this.settings.input.removeAttribute("aria-activedescendant");
  }
}
