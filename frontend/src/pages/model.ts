/** A model version: settings and promotion. */
import { byId, pageData } from "../shared/dom";
import { formatDuration } from "../shared/format";
import { onApiSubmit } from "../shared/forms";

interface ModelPage {
  model: { config: unknown };
  promote_url: string;
}

export function start(): void {
  const page = pageData<ModelPage>();
  byId("config").textContent = JSON.stringify(page.model.config, null, 2);
  for (const span of document.querySelectorAll<HTMLElement>("[data-seconds]")) {
    if (span.dataset.seconds) span.textContent = formatDuration(Number(span.dataset.seconds));
  }
  const form = document.querySelector<HTMLFormElement>("#promote");
  if (!form) return;
  const body = (): unknown => ({ reason: byId<HTMLTextAreaElement>("reason").value });
  onApiSubmit(form, page.promote_url, body, () => location.reload());
}
