/** Everything of an answer that is words and tables. */
import { byId, element, type Child } from "../shared/dom";
import { formatNumber } from "../shared/format";
import { strokeKey } from "./key";
import { originOf } from "./request";
import type { Analysis } from "./types";

export function renderResults(analysis: Analysis): void {
  byId("figure-title").textContent = analysis.title;
  byId("badges").replaceChildren(...badges(analysis));
  byId("headline").replaceChildren(...headline(analysis));
  byId("legend").replaceChildren(...legend(analysis));
  byId("figure-caption").textContent = caption(analysis);
  byId("groups").replaceChildren(...groups(analysis));
  byId("notes").replaceChildren(...notes(analysis));
  byId("excluded").replaceChildren(...excluded(analysis));
  byId("methods").textContent = analysis.methods;
}

export function badges({ stratifier, labels }: Analysis): HTMLElement[] {
  const shown: HTMLElement[] = [];
  if (labels.includes("Synthetic data")) {
    shown.push(element("span", { class: "badge badge-synthetic" }, "synthetic"));
  }
  if (stratifier && stratifier.source !== "clinical") {
    const kind = stratifier.source === "measured" ? "measured" : "predicted";
    shown.push(element("span", { class: `badge badge-${kind}` }, originOf(stratifier)));
  }
  return shown;
}

function figureOf(name: string, value: Child): HTMLElement {
  return element("div", {}, element("dt", {}, name), element("dd", {}, value));
}

function headline({ n, events, log_rank, hazard_ratios, strata }: Analysis): HTMLElement[] {
  const shown = [figureOf("patients", formatNumber(n)), figureOf("events", formatNumber(events))];
  if (log_rank) shown.push(figureOf(`${log_rank.test} p`, log_rank.p_text));
  if (hazard_ratios.length === 1) {
    const { text, label, reference } = hazard_ratios[0];
    shown.push(figureOf(`hazard ratio (95 % CI), ${label} against ${reference}`, text));
  }
  if (strata.length === 1) {
    shown.push(figureOf("median (95 % CI), months", strata[0].median_text));
  }
  return shown;
}

function legend({ strata }: Analysis): HTMLElement[] {
  if (strata.length < 2) return [];
  return strata.map(({ label, n, events }, index) =>
    element("li", {}, strokeKey(index), `${label}: ${events} of ${n}`),
  );
}

function caption({ labels }: Analysis): string {
  return [
    "Beside the lines: events of patients. Ticks on a curve: censored. Band: 95 % log-log interval. Pale tail: fewer than a tenth of the group, or than 5 patients, at risk. Table: at risk just before the month; censored and events before it, in total.",
    `${labels.join(". ")}.`,
  ].join(" ");
}

function groups({ strata, hazard_ratios }: Analysis): Node[] {
  const compared = hazard_ratios.length > 0;
  const columns = ["Group", "Patients", "Events", "Median, months (95 % CI)"];
  if (compared) columns.push("Hazard ratio (95 % CI)", "p", "p of prop. hazards");
  const head = columns.map((name, index) =>
    element("th", { scope: "col", class: index === 1 || index === 2 ? "num" : undefined }, name),
  );
  const rows = strata.map((stratum, index) => {
    const ratio = hazard_ratios.find(({ label }) => label === stratum.label);
    return element(
      "tr",
      {},
      element("th", { scope: "row", class: "group-name" }, strokeKey(index), stratum.label),
      element("td", { class: "num" }, formatNumber(stratum.n)),
      element("td", { class: "num" }, formatNumber(stratum.events)),
      element("td", {}, stratum.median_text),
      ...(compared
        ? [ratio?.text ?? "1 (reference)", ratio?.p_text ?? "", ratio?.ph_p_text ?? ""].map((text) =>
            element("td", {}, text),
          )
        : []),
    );
  });
  return [
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...rows),
  ];
}

function notes(analysis: Analysis): Node[] {
  return analysis.notes.map((note) =>
    element("p", { class: "message message-warning small" }, note),
  );
}

function excluded({ exclusions, n, n_cohort }: Analysis): Node[] {
  const sum = `${formatNumber(n)} of ${formatNumber(n_cohort)} patients are in the analysis, one row each.`;
  if (exclusions.length === 0) return [element("p", {}, `${sum} Nobody was left out.`)];
  const items = exclusions.map(({ reason, n: count, patients }) =>
    element(
      "li",
      {},
      element(
        "details",
        {},
        element("summary", {}, `${formatNumber(count)}: ${reason}`),
        element("p", { class: "small patients" }, patients.join(", ")),
      ),
    ),
  );
  return [element("p", {}, sum), element("ul", { class: "exclusions" }, ...items)];
}
