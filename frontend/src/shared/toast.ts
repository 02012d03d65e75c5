/** Messages in the corner, read out by screen readers; errors stay until they are closed. */
import { Problem } from "./api";
import { element } from "./dom";

const SHOWN_MS = 6000;

function shelf(): HTMLElement {
  const found = document.querySelector<HTMLElement>(".toasts");
  if (found) return found;
  const made = element("div", { class: "toasts", role: "region", "aria-label": "Messages" });
  document.body.appendChild(made);
  return made;
}

function show(kind: "" | "message-error" | "message-warning", body: HTMLElement): HTMLElement {
  const close = element("button", { class: "button button-small button-quiet", type: "button" }, "Close");
  const isError = kind === "message-error";
  const toast = element(
    "div",
    { class: `message ${kind}`.trim(), role: isError ? "alert" : "status" },
    body,
    close,
  );
  close.addEventListener("click", () => toast.remove());
  shelf().appendChild(toast);
  if (!isError) setTimeout(() => toast.remove(), SHOWN_MS);
  return toast;
}

export function toast(text: string): void {
  show("", element("div", {}, text));
}

/** Shows what went wrong, where, and the remedy; anything else is logged and named as a fault. */
export function toastError(error: unknown): void {
  if (error instanceof DOMException && error.name === "AbortError") return;
  show("message-error", problemBody(error));
}

export function problemBody(error: unknown): HTMLElement {
  if (error instanceof Problem) {
    return element(
      "div",
      {},
      element("strong", {}, error.where ? `${error.where}: ${error.message}` : error.message),
      error.remedy ? element("div", {}, error.remedy) : null,
    );
  }
  console.error(error);
  const text = error instanceof Error ? error.message : String(error);
  return element(
    "div",
    {},
    element("strong", {}, "This page met a fault."),
    element("div", {}, text),
  );
}
