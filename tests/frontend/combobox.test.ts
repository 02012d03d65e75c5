// @vitest-environment happy-dom
import { Combobox } from "../../frontend/src/shared/combobox";

const GENES = ["ERBB2", "ERBB3", "ESR1"];

function setUp(): { input: HTMLInputElement; chosen: string[]; press: (key: string) => void } {
  document.body.replaceChildren();
  const input = document.createElement("input");
  document.body.appendChild(input);
  const chosen: string[] = [];
  new Combobox({
    input,
    search: (text) =>
      Promise.resolve(
        GENES.filter((gene) => gene.includes(text.toUpperCase())).map((value) => ({ value })),
      ),
    choose: (value) => chosen.push(value),
    none: (text) => `nothing matches ${text}`,
  });
  input.focus();
  const press = (key: string): void => {
    input.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  };
  return { input, chosen, press };
}

async function type(input: HTMLInputElement, text: string): Promise<void> {
  input.value = text;
  input.dispatchEvent(new Event("input"));
  await vi.advanceTimersByTimeAsync(200);
}

const options = (): string[] =>
  [...document.querySelectorAll("[role=option]")].map(({ textContent }) => textContent);

describe("Combobox", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("lists matches and tells assistive technology", async () => {
    const { input } = setUp();
    expect(input.getAttribute("aria-expanded")).toBe("false");
    await type(input, "erbb");
    expect(options()).toEqual(["ERBB2", "ERBB3"]);
    expect(input.getAttribute("aria-expanded")).toBe("true");
    expect(document.getElementById(input.getAttribute("aria-controls") ?? "")?.role).toBe("listbox");
  });

  it("takes the marked option on Enter", async () => {
    const { input, chosen, press } = setUp();
    await type(input, "erbb");
    press("ArrowDown");
    press("ArrowDown");
    const marked = document.querySelector("[aria-selected=true]");
    expect(marked?.textContent).toBe("ERBB3");
    expect(input.getAttribute("aria-activedescendant")).toBe(marked?.id);
    press("Enter");
    expect(chosen).toEqual(["ERBB3"]);
    expect(input.getAttribute("aria-expanded")).toBe("false");
  });

  it("takes the typed symbol on Enter whatever its case, before any list is there", async () => {
    const { input, chosen, press } = setUp();
    input.value = "esr1";
    press("Enter");
    await vi.advanceTimersByTimeAsync(10);
    expect([chosen, input.value]).toEqual([["ESR1"], "ESR1"]);
  });

  it("chooses nothing where nothing matches, and says so", async () => {
    const { input, chosen, press } = setUp();
    await type(input, "XYZ");
    expect(document.querySelector("[role=listbox]")?.textContent).toBe("nothing matches XYZ");
    press("Enter");
    await vi.advanceTimersByTimeAsync(10);
    expect(chosen).toEqual([]);
  });

  it("closes on Escape and keeps what was typed", async () => {
    const { input, press } = setUp();
    await type(input, "er");
    press("Escape");
    expect(input.getAttribute("aria-expanded")).toBe("false");
    expect(input.value).toBe("er");
  });
});
