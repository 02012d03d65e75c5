/** Magnification, rotation, image adjustment and keys: what moves or filters the views. */
import { byId, element } from "../shared/dom";
import { magnificationLabel, magnificationSteps, parseMagnification } from "./scale";
import type { SlideView } from "./slideView";

const ROTATION_STEP = 15;
const PAN_SHARE = 0.15;
const KEY_ZOOM = 1.5;
const TYPED_IN =
  "input:not([type=radio], [type=checkbox], [type=range]), select, textarea, dialog[open]";
const PANS: Record<string, [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

export class Toolbar {
  private readonly typed = byId<HTMLInputElement>("magnification");
  private readonly buttons: { value: number; button: HTMLButtonElement }[] = [];

  constructor(
    private readonly view: SlideView,
    mpp: number,
    allViews: () => SlideView[],
  ) {
    const group = byId("magnifications");
    const fit = button("Fit", "Show the whole slide");
    fit.addEventListener("click", () => view.fit());
    group.appendChild(fit);
    const steps = magnificationSteps(mpp);
    steps.forEach((value, index) => {
      const isNative = index === steps.length - 1;
      const made = button(magnificationLabel(value), isNative ? "The slide's own resolution" : "");
      made.addEventListener("click", () => view.moveTo({ magnification: value }));
      this.buttons.push({ value, button: made });
      group.appendChild(made);
    });
    this.typed.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      const wanted = parseMagnification(this.typed.value);
      this.typed.setAttribute("aria-invalid", String(wanted === null));
      if (wanted !== null) view.moveTo({ magnification: wanted });
      this.typed.select();
    });
    this.typed.addEventListener("blur", () => this.update());
    byId("rotate-left").addEventListener("click", () => this.rotate(-ROTATION_STEP));
    byId("rotate-right").addEventListener("click", () => this.rotate(ROTATION_STEP));
    adjustImage(allViews);
  }

  /** Shows the present magnification; a field that is being typed in is left alone. */
  update(): void {
    const now = this.view.viewport.magnification;
    if (document.activeElement !== this.typed) {
      this.typed.value = magnificationLabel(now);
      this.typed.removeAttribute("aria-invalid");
    }
    for (const { value, button: made } of this.buttons) {
      made.setAttribute("aria-pressed", String(Math.abs(now / value - 1) < 0.01));
    }
  }

  /** True when the key did something. */
  onKey(key: string): boolean {
    const { view } = this;
    const numbered = this.buttons[Number(key) - 1] as { value: number } | undefined;
    if (numbered) view.moveTo({ magnification: numbered.value });
    else if (key === "f") view.fit();
    else if (key === ",") this.rotate(-ROTATION_STEP);
    else if (key === ".") this.rotate(ROTATION_STEP);
    else if (key === "0") view.moveTo({ rotation: 0 });
    else if (key === "+" || key === "=") view.zoomBy(KEY_ZOOM);
    else if (key === "-") view.zoomBy(1 / KEY_ZOOM);
    else if (key in PANS) view.panBy(PANS[key][0] * PAN_SHARE, PANS[key][1] * PAN_SHARE);
    else return false;
    return true;
  }

  private rotate(degrees: number): void {
    this.view.moveTo({ rotation: this.view.viewport.rotation + degrees });
  }
}

function button(text: string, title: string): HTMLButtonElement {
  const made = element("button", { type: "button", class: "button button-small" }, text);
  if (title) made.title = title;
  return made;
}

/** Brightness, contrast and gamma as a CSS filter on what is shown. */
function adjustImage(allViews: () => SlideView[]): void {
  const sliders = ["brightness", "contrast", "gamma"].map((id) => byId<HTMLInputElement>(id));
  const apply = (): void => {
    const [brightness, contrast, gamma] = sliders.map(({ value }) => Number(value));
    for (const part of document.querySelectorAll("#gamma-filter feComponentTransfer > *")) {
      part.setAttribute("exponent", String(1 / gamma));
    }
    const filters = [
      brightness === 1 ? "" : `brightness(${brightness})`,
      contrast === 1 ? "" : `contrast(${contrast})`,
      gamma === 1 ? "" : "url(#gamma-filter)",
    ];
    for (const view of allViews()) view.setImageFilter(filters.filter(Boolean).join(" "));
  };
  for (const slider of sliders) slider.addEventListener("input", apply);
  byId("adjust-reset").addEventListener("click", () => {
    for (const slider of sliders) slider.value = "1";
    apply();
  });
  document.addEventListener("views-changed", apply);
}

/** Calls `handle` for keys pressed outside of fields; those it takes do nothing else. */
export function listenToKeys(handle: (key: string, event: KeyboardEvent) => boolean): void {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target as HTMLElement;
    if (target.closest(TYPED_IN)) return;
    // Boxes, radio buttons and sliders need these keys themselves.
    if (target.matches("input") && /^(Arrow.*| |Home|End|Page.*)$/.test(event.key)) return;
    if (event.key === " " && !target.closest("button, a, summary")) {
      // Dragging pans in any case; the space bar must not scroll the page meanwhile.
      event.preventDefault();
      return;
    }
    if (handle(event.key, event)) event.preventDefault();
  });
}
