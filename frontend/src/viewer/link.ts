/** Keeps the address of the page on what is shown, so that it can be sent to somebody. */
import { copyText } from "../shared/clipboard";
import { toQuery, type ViewState } from "./permalink";
import type { SlideView } from "./slideView";

const PAUSE_MS = 250;

export class PageLink {
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly state: ViewState,
    private readonly view: SlideView,
  ) {}

  writeSoon(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.write(), PAUSE_MS);
  }

  write(): void {
    if (!this.view.viewer.isOpen()) return;
    Object.assign(this.state, this.view.viewport);
    history.replaceState(null, "", `${location.pathname}?${toQuery(this.state)}`);
  }

  async copy(): Promise<void> {
    this.write();
    await copyText(location.href, "Link copied. It opens this view for anyone who may see the study.");
  }
}
