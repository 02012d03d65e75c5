/** The form: what is asked. It changes a request and says so; it computes nothing. */
import { getJson } from "../shared/api";
import { Combobox } from "../shared/combobox";
import { byId, element } from "../shared/dom";
import { cutAt, dividedBy, optionText, originOf, typedMonths, typedNumber, withLevels } from "./request";
import type { Analysis, Cut, Endpoint, KmRequest, Page, StratifierOption } from "./types";

export class Controls {
  private readonly endpoint = byId<HTMLSelectElement>("endpoint");
  private readonly stratifier = byId<HTMLInputElement>("stratifier");
  private readonly cut = byId<HTMLSelectElement>("cut");
  private readonly value = byId<HTMLInputElement>("value");
  private readonly training = byId<HTMLInputElement>("include-training");
  private found = new Map<string, StratifierOption>();
  /** What the answer on the page is divided by, as the list names it. */
  private standing = "";

  constructor(
    private readonly page: Page,
    private request: KmRequest,
    private readonly changed: (request: KmRequest) => void,
  ) {
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    this.endpoint.value = request.endpoint;
    this.endpoint.addEventListener("change", () =>
      this.ask({ ...this.request, endpoint: this.endpoint.value, causes: [] }),
    );
    new Combobox({
      input: this.stratifier,
      search: (text) => this.search(text),
      choose: (text) => this.choose(text),
      none: (text) => `Nothing here is called “${text}”.`,
    });
    this.cut.addEventListener("change", () => this.cutChanged());
    this.value.addEventListener("change", () => this.cutChanged());
    for (const name of ["horizon", "landmark"] as const) {
      const field = byId<HTMLInputElement>(name);
      field.value = request[name]?.toString() ?? "";
      field.addEventListener("change", () =>
        this.ask({ ...this.request, [name]: typedMonths(field.value) }),
      );
    }
    this.training.addEventListener("change", () =>
      this.ask({ ...this.request, include_training: this.training.checked }),
    );
    this.describeEndpoint();
  }

  private ask(request: KmRequest): void {
    this.request = request;
    this.describeEndpoint();
    this.changed(request);
  }

  private async search(text: string): Promise<{ value: string; note: string }[]> {
    // With a choice standing in the field, opening the list shows everything again.
    const words = text === this.standing ? "" : text;
    const url = `${this.page.urls.stratifiers}?search=${encodeURIComponent(words)}`;
    const answer = await getJson<{ total: number; results: StratifierOption[] }>(url);
    this.found = new Map(answer.results.map((option) => [optionText(option), option]));
    const more = answer.total - answer.results.length;
    byId("stratifier-hint").textContent =
      more > 0
        ? `${answer.results.length} of ${answer.total} shown: type to narrow.`
        : "Type a few letters, press Enter.";
    return answer.results.map((option) => ({ value: optionText(option), note: option.source }));
  }

  private choose(text: string): void {
    const option = this.found.get(text);
    if (!option) return;
    const { source, table, name } = option;
    this.ask(dividedBy(this.request, { source, table, name }));
  }

  private cutChanged(): void {
    const cut = this.cut.value as Cut;
    byId("value-field").hidden = cut !== "value";
    const request = cutAt(this.request, cut, typedNumber(this.value.value));
    if (request) this.ask(request);
    else this.value.focus();
  }

  /** Shows what an answer says was asked: the cut that was used, the groups there are. */
  show(analysis: Analysis): void {
    const { stratifier, cut, request } = analysis;
    const chosen = byId("chosen");
    chosen.hidden = stratifier === null;
    this.standing = stratifier ? optionText(stratifier) : "";
    this.stratifier.value = this.standing;
    if (stratifier) {
      const kind = stratifier.source === "measured" || stratifier.source === "clinical";
      const clear = element("button", { class: "button button-small", type: "button" }, "Clear");
      clear.addEventListener("click", () => {
        this.ask(dividedBy(this.request, null));
        this.stratifier.focus();
      });
      chosen.replaceChildren(
        element("strong", {}, stratifier.label),
        clear,
        element(
          "span",
          { class: `badge ${stratifier.source === "clinical" ? "" : kind ? "badge-measured" : "badge-predicted"}` },
          originOf(stratifier),
        ),
      );
    }
    byId("cut-field").hidden = !stratifier?.numeric;
    if (stratifier?.numeric) this.cut.value = cut;
    byId("value-field").hidden = cut !== "value";
    this.value.value = request.value?.toString() ?? this.value.value;
    byId("value-unit").textContent = stratifier?.unit ? `(${stratifier.unit})` : "";
    this.showLevels(analysis);
    byId("training-field").hidden =
      stratifier?.source !== "predicted" ||
      !(request.include_training || analysis.exclusions.some((e) => e.reason.startsWith("Training")));
    this.training.checked = request.include_training;
  }

  private showLevels({ stratifier, request }: Analysis): void {
    const levels = stratifier && !stratifier.numeric ? stratifier.levels : [];
    byId("levels-field").hidden = levels.length < 3;
    const ticked = request.levels.length > 0 ? request.levels : levels;
    byId("levels").replaceChildren(
      ...checks(levels.map((level) => [level, level]), ticked, (now) =>
        this.ask(withLevels(this.request, now, levels)),
      ),
    );
  }

  private describeEndpoint(): void {
    const endpoint = this.page.endpoints.find(({ code }) => code === this.request.endpoint);
    byId("endpoint-hint").textContent = endpoint ? `Months since ${endpoint.time_zero}.` : "";
    this.showCauses(endpoint);
  }

  private showCauses(endpoint: Endpoint | undefined): void {
    const causes = Object.entries(endpoint?.causes ?? {});
    byId("causes-field").hidden = causes.length < 2;
    const all = causes.map(([number]) => number);
    const ticked = this.request.causes.length > 0 ? this.request.causes.map(String) : all;
    byId("causes").replaceChildren(
      ...checks(causes, ticked, (now) =>
        this.ask({ ...this.request, causes: now.length === all.length ? [] : now.map(Number) }),
      ),
    );
  }
}

/** Tick boxes of which at least one stays ticked. */
function checks(
  options: [string, string][],
  ticked: string[],
  changed: (ticked: string[]) => void,
): HTMLElement[] {
  const boxes = options.map(([value, label]) => {
    const box = element("input", { type: "checkbox", value, checked: ticked.includes(value) });
    return { box, label: element("label", { class: "check" }, box, label) };
  });
  for (const { box } of boxes) {
    box.addEventListener("change", () => {
      const now = boxes.filter((one) => one.box.checked).map((one) => one.box.value);
      if (now.length > 0) changed(now);
      else box.checked = true;
    });
  }
  return boxes.map(({ label }) => label);
}
