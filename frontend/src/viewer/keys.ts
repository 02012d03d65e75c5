/** Keys of the viewer page beside those that move the slide. */
import { byId } from "../shared/dom";
import type { Origin } from "./expression";
import { listenToKeys } from "./toolbar";

const ORIGINS: Record<string, Origin> = { m: "measured", p: "predicted", d: "difference" };

interface KeyActions {
  origin: (origin: Origin) => void;
  split: () => void;
  /** Points vanish while the key is held. */
  hidePoints: (hide: boolean) => void;
  /** Says whether the key was one of its own. */
  move: (key: string) => boolean;
}

export function bindKeys(act: KeyActions): void {
  listenToKeys((key) => {
    if (key === "?") byId<HTMLDialogElement>("keys").showModal();
    else if (key === "/") byId("gene").focus();
    else if (key === "s") act.split();
    else if (key in ORIGINS) act.origin(ORIGINS[key]);
    else if (key === "h") act.hidePoints(true);
    else return act.move(key);
    return true;
  });
  document.addEventListener("keyup", ({ key }) => {
    if (key === "h") act.hidePoints(false);
  });
}
