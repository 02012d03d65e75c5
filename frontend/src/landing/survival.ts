/** The study's curve: fetched from the survival API and drawn small. */
import { getJson } from "../shared/api";
import { byId, element } from "../shared/dom";
import { formatNumber } from "../shared/format";
import { problemBody } from "../shared/toast";
import { KmFigure } from "../survival/figure";
import { readStrokes, strokeKey } from "../survival/key";
import { badges } from "../survival/results";
import type { Analysis } from "../survival/types";
import { leftOutText, testText } from "./words";

const SMALL = { height: 260, margin: { l: 52, r: 16, t: 8, b: 44 } };

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
  const isOrigin = (badge: Element): boolean => !badge.matches(".badge-synthetic"); // the page says it
  byId("km-badges").replaceChildren(...badges(analysis).filter(isOrigin));
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
