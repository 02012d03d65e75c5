/** Forms: sent once, and those of the API show what went wrong where it was asked for. */
import { postJson } from "./api";
import { problemBody } from "./toast";

/** A plain form is sent once: its submit button is disabled as soon as it is pressed. */
export function guardForms(root: ParentNode): void {
  for (const form of root.querySelectorAll<HTMLFormElement>("form[method=post]:not([data-api])")) {
    form.addEventListener("submit", () => setBusy(form, true));
  }
  // A page that comes back from the history must be usable again.
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    for (const form of root.querySelectorAll("form")) setBusy(form, false);
  });
}

function setBusy(form: HTMLFormElement, busy: boolean): void {
  for (const button of form.querySelectorAll<HTMLButtonElement>("button[type=submit]")) {
    button.disabled = busy;
  }
}

/**
 * Sends `body()` as JSON when the form is submitted; the button is disabled until an error comes
 * back, which is shown in the form's `.form-error`.
 */
export function onApiSubmit<T>(
  form: HTMLFormElement,
  url: string,
  body: () => unknown,
  done: (answer: T) => void,
): void {
  const problem = form.querySelector<HTMLElement>(".form-error");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setBusy(form, true);
    problem?.replaceChildren();
    postJson<T>(url, body())
      .then(done)
      .catch((error: unknown) => {
        const shown = problemBody(error);
        shown.className = "message message-error";
        problem?.replaceChildren(shown);
        setBusy(form, false);
      });
  });
}

/** The job that was started: go and watch it. */
export function goToJob({ url }: { url: string }): void {
  location.assign(url);
}
