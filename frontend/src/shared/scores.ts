/** Words for what a model says of its own scores. */
import { formatFixed } from "./format";

/** Pearson and its 95 % interval in validation, of a gene that the model cannot tell from H&E. */
export interface NotPredictable {
  pcc: number | null;
  low: number | null;
  high: number | null;
}

export const NOT_PREDICTABLE = "not predictable from H&E";

/** "validation Pearson 0.02 (95 % −0.05 to 0.08)"; empty where the score is not known. */
export function validationText({ pcc, low, high }: NotPredictable): string {
  if (pcc === null) return "";
  const interval =
    low === null || high === null ? "" : ` (95 % ${formatFixed(low, 2)} to ${formatFixed(high, 2)})`;
  return `validation Pearson ${formatFixed(pcc, 2)}${interval}`;
}
