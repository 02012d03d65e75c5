/** The study's curve: fetched from the survival API and drawn small. */
import { getJson } from "../shared/api";
import { byId, element } from "../shared/dom";
import { formatNumber } from "../shared/format";
import { problemBody } from "../shared/toast";
import { KmFigure } from "../survival/figure";
import { readStrokes, strokeKey } from "../survival/key";
import { badges } from "../survival/results";
import type { Analysis } from "../survival/types";

const SMALL = { height: 260, margin: { l: 52, r: 16, t: 8, b: 44 } };

/** "Log-rank p 0.004; hazard ratio 1.9 (1.2 to 3.0), High against Low" */
export function testText({ log_rank, hazard_ratios }: Analysis): string {
  if (!log_rank) return "";
  const name = log_rank.test[0].toUpperCase() + log_rank.test.slice(1);
  const equals = /^[<>]/.test(log_rank.p_text) ? "" : "= ";
  const test = `${name} p ${equals}${log_rank.p_text}`;
  if (hazard_ratios.length !== 1) return test;
  const [{ text, label, reference }] = hazard_ratios;
  return `${test}; hazard ratio ${text}, ${label} against ${reference}`;
}

/** Who is not in the figure, and why. */
export function leftOutText({ n, n_cohort, exclusions }: Analysis): string {
  const sum = `${formatNumber(n)} of ${formatNumber(n_cohort)} patients.`;
  if (exclusions.length === 0) return sum;
  const why = exclusions.map((one) => `${formatNumber(one.n)} (${one.reason})`).join("; ");
  return `${sum} Left out: ${why}.`;
}

/** Shows the curve that the server chose, or says why there is none. */
export async function showStudyCurve(figureUrl: string, dashboardUrl: string): Promise<void> {
  try {
    await show(await getJson<Analysis>(figureUrl), dashboardUrl);
  } catch (error) {
    byId("landing-km").hidden = true;
    const problem = byId("km-problem");
    problem.replaceChildren(problemBody(error));
    problem.hidden = false;
  }
}

async function show(analysis: Analysis, dashboardUrl: string): Promise<void> {
  readStrokes(analysis.figure);
  byId("km-question").textContent = analysis.title;
  byId("km-badges").replaceChildren(...badges(analysis));
  byId("km-legend").replaceChildren(
    ...analysis.strata.map(({ label, n, events }, index) =>
      element(
        "li",
        {},
        strokeKey(index),
        `${label}: ${formatNumber(n)} patients, ${formatNumber(events)} events`,
      ),
    ),
  );
  byId("km-test").textContent = testText(analysis);
  byId("km-left-out").textContent = leftOutText(analysis);
  byId<HTMLAnchorElement>("km-link").href = `${dashboardUrl}?${analysis.query}`;
  await new KmFigure(byId("km-plot"), () => undefined, SMALL).draw(analysis.figure);
  byId("landing-km").setAttribute("aria-busy", "false");
}
