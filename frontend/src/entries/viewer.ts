import "../../styles/viewer.css";
import "../../styles/types.css";

import { getJson } from "../shared/api";
import { pageData } from "../shared/dom";
import { toastError } from "../shared/toast";
import type { SlideInfo } from "../viewer/types";
import { Workbench } from "../viewer/workbench";

const { api } = pageData<{ api: string }>();

async function open(): Promise<void> {
  const slide = await getJson<SlideInfo>(api);
  await new Workbench(slide, api).start();
  document.documentElement.dataset.viewer = "ready";
}

open().catch((error: unknown) => {
  document.documentElement.dataset.viewer = "error";
  toastError(error);
});
