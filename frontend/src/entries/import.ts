import "../../styles/pages.css";

import { byId, pageData } from "../shared/dom";
import { goToJob, onApiSubmit } from "../shared/forms";

const body = (): unknown => ({
  path: byId<HTMLInputElement>("path").value.trim(),
  format: byId<HTMLSelectElement>("format").value,
});
onApiSubmit(
  byId<HTMLFormElement>("import"),
  pageData<{ import_url: string }>().import_url,
  body,
  goToJob,
);
