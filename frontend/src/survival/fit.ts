/** The form that starts the fit of a risk model, and leads to its job. */
import { getJson, postJson } from "../shared/api";
import { Combobox } from "../shared/combobox";
import { byId, element } from "../shared/dom";
import { toastError } from "../shared/toast";
import { optionText } from "./request";
import type { StratifierOption, Urls } from "./types";

export class FitForm {
  private readonly form = byId<HTMLFormElement>("fit");
  private readonly chosen = new Map<string, StratifierOption>();
  private found = new Map<string, StratifierOption>();

  constructor(
    private readonly urls: Urls,
    private readonly endpoint: () => string,
  ) {
    const input = byId<HTMLInputElement>("feature");
    new Combobox({
      input,
      search: (text) => this.search(text),
      choose: (text) => {
        const option = this.found.get(text);
        if (option) this.chosen.set(text, option);
        input.value = "";
        this.render();
      },
      none: (text) => `No gene is called “${text}”.`,
    });
    this.form.closest("details")?.addEventListener("toggle", () => this.render());
    byId("endpoint").addEventListener("change", () => this.render());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.start().catch(toastError);
    });
    this.render();
  }

  private async search(text: string): Promise<{ value: string; note: string }[]> {
    const url = `${this.urls.stratifiers}?search=${encodeURIComponent(text)}`;
    const answer = await getJson<{ results: StratifierOption[] }>(url);
    const genes = answer.results.filter(
      ({ source }) => source === "measured" || source === "predicted",
    );
    this.found = new Map(genes.map((option) => [optionText(option), option]));
    return genes.map((option) => ({ value: optionText(option), note: option.source }));
  }

  private render(): void {
    byId("fit-endpoint").textContent = this.endpoint();
    byId("features").replaceChildren(
      ...[...this.chosen.keys()].map((text) => {
        const remove = element(
          "button",
          { class: "button button-small button-quiet", type: "button", "aria-label": `Remove ${text}` },
          "×",
        );
        remove.addEventListener("click", () => {
          this.chosen.delete(text);
          this.render();
        });
        return element("li", { class: "chip" }, text, remove);
      }),
    );
  }

  private async start(): Promise<void> {
    const button = byId<HTMLButtonElement>("start-fit");
    const clinical = [...this.form.querySelectorAll<HTMLInputElement>("input[name=clinical]:checked")];
    button.disabled = true;
    try {
      const job = await postJson<{ url: string }>(this.urls.fit, {
        endpoint: this.endpoint(),
        clinical: clinical.map(({ value }) => value),
        features: [...this.chosen.values()].map(({ table, name }) => ({ table, name })),
      });
      window.location.assign(job.url);
    } catch (error) {
      button.disabled = false;
      throw error;
    }
  }
}
