/** The figure of a study's curve in words: its test, and who is not in it. */
import { formatNumber } from "../shared/format";
import type { Analysis } from "../survival/types";

/** "Log-rank p 0.004; hazard ratio 1.9 (1.2 to 3.0), High against Low" */
export function testText({ log_rank, hazard_ratios }: Analysis): string {
  if (!log_rank) return "";
  const name = log_rank.test[0].toUpperCase() + log_rank.test.slice(1);
  const equals = /^[<>]/.test(log_rank.p_text) ? "" : "= ";
  const test = `${name} p ${equals}${log_rank.p_text}`;
  if (hazard_ratios.length !== 1) return test;
  const [{ ratio, text, label, reference }] = hazard_ratios;
  if (ratio === null) return `${test}; no hazard ratio. ${text}`;
  return `${test}; hazard ratio ${text}, ${label} against ${reference}`;
}

/** Who is not in the figure, and why. */
export function leftOutText({ n, n_cohort, exclusions }: Analysis): string {
  const sum = `${formatNumber(n)} of ${formatNumber(n_cohort)} patients.`;
  if (exclusions.length === 0) return sum;
  const why = exclusions.map((one) => `${formatNumber(one.n)} (${one.reason})`).join("; ");
  return `${sum} Left out: ${why}.`;
}
