/** Changes to a request, kept apart from the page so that each is a plain function. */
import type { Cut, KmRequest, StratifierOption, StratifierRef } from "./types";

/** A new stratifier starts from its own default cut; endpoint, horizon and landmark stay. */
export function dividedBy(request: KmRequest, stratifier: StratifierRef | null): KmRequest {
  return { ...request, stratifier, cut: null, value: null, levels: [], include_training: false };
}

/** null while a value of one's own is still to be typed. */
export function cutAt(request: KmRequest, cut: Cut, value: number | null): KmRequest | null {
  if (cut === "value" && value === null) return null;
  return { ...request, cut, value: cut === "value" ? value : null };
}

/** All levels ticked is the same question as none chosen. */
export function withLevels(request: KmRequest, ticked: string[], all: string[]): KmRequest {
  return { ...request, levels: ticked.length === all.length ? [] : ticked };
}

/** A number typed into a field; null when it is empty or no number. */
export function typedNumber(text: string): number | null {
  const value = Number(text);
  return text.trim() === "" || !Number.isFinite(value) ? null : value;
}

/** Months of a horizon or landmark: above 0, or none. */
export function typedMonths(text: string): number | null {
  const months = typedNumber(text);
  return months !== null && months > 0 ? months : null;
}

/** What tells two options with the same label apart, in words: "measured · RNA-seq z-score". */
export function originOf(option: Pick<StratifierOption, "source" | "model" | "table_name">): string {
  switch (option.source) {
    case "clinical":
      return "clinical";
    case "measured":
      return `measured · ${option.table_name}`;
    case "predicted":
      return option.model ? `predicted · ${option.model}` : "predicted";
    case "risk":
      return `predicted · ${option.table_name}`;
  }
}

type Named = Pick<StratifierOption, "source" | "name" | "label" | "model" | "table_name">;

/** The text by which the search list names an option; no two options share it. */
export function optionText(option: Named): string {
  return option.source === "clinical" ? option.label : `${option.name} · ${shortOrigin(option)}`;
}

function shortOrigin(option: Named): string {
  return option.source === "predicted" ? option.model || "predicted" : option.table_name;
}
