/** A plain form is sent once: its submit button is disabled as soon as it is pressed. */
export function guardForms(root: ParentNode): void {
  for (const form of root.querySelectorAll<HTMLFormElement>("form[method=post]:not([data-api])")) {
    form.addEventListener("submit", () => {
      for (const button of form.querySelectorAll<HTMLButtonElement>("button[type=submit]")) {
        button.disabled = true;
      }
    });
  }
  // A page that comes back from the history must be usable again.
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    for (const button of root.querySelectorAll<HTMLButtonElement>("form button[disabled]")) {
      button.disabled = false;
    }
  });
}
