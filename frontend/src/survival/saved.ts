/** Saved analyses: a link each, to the request; the numbers are computed when it is opened. */
import { getJson, postJson, Problem } from "../shared/api";
import { byId, element } from "../shared/dom";
import { formatDateTime } from "../shared/format";
import { toast, toastError } from "../shared/toast";
import type { KmRequest, Saved } from "./types";

export class SavedAnalyses {
  constructor(
    private readonly url: string,
    private readonly current: () => KmRequest,
  ) {
    const button = document.getElementById("save");
    button?.addEventListener("click", () => void this.save().catch(toastError));
    const name = document.getElementById("save-name");
    name?.addEventListener("keydown", (event) => {
      if (event.key === "Enter") void this.save().catch(toastError);
    });
  }

  async load(): Promise<void> {
    const saved = await getJson<Saved[]>(this.url);
    byId("saved").replaceChildren(...saved.map((one) => this.item(one)));
    byId("saved-none").hidden = saved.length > 0;
  }

  private item(saved: Saved): HTMLElement {
    const remove = element(
      "button",
      { class: "button button-small button-quiet", type: "button", "aria-label": `Delete ${saved.name}` },
      "Delete",
    );
    remove.addEventListener("click", () => {
      if (window.confirm(`Delete the saved analysis “${saved.name}”?`)) {
        void this.remove(saved).catch(toastError);
      }
    });
    return element(
      "li",
      {},
      element(
        "span",
        {},
        element("a", { href: `?${saved.query}` }, saved.name),
        element("span", { class: "muted small" }, `${saved.created_by}, ${formatDateTime(saved.created_at)}`),
      ),
      saved.deletable && remove,
    );
  }

  private async save(): Promise<void> {
    const field = byId<HTMLInputElement>("save-name");
    const name = field.value.trim();
    if (!name) {
      field.focus();
      return;
    }
    await postJson(this.url, { name, request: this.current() });
    field.value = "";
    toast(`Saved “${name}”.`);
    await this.load();
  }

  private async remove(saved: Saved): Promise<void> {
    const token = document.querySelector<HTMLInputElement>("input[name=csrfmiddlewaretoken]");
    const answer = await fetch(`${this.url}${saved.id}/`, {
      method: "DELETE",
      headers: { "X-CSRFToken": token?.value ?? "" },
    });
    if (!answer.ok) throw new Problem(answer.status, (await answer.json()) as object);
    await this.load();
  }
}
