import "../../styles/survival.css";

import { byId, pageData } from "../shared/dom";
import { Dashboard } from "../survival/dashboard";
import { FitForm } from "../survival/fit";
import type { Page } from "../survival/types";

const page = pageData<Page>();
const dashboard = new Dashboard(page);
dashboard.start();
if (document.getElementById("fit")) {
  const endpoint = byId<HTMLSelectElement>("endpoint");
  new FitForm(page.urls, () => endpoint.value);
}
