/** What the evaluation page is drawn from. */

export type Score = Record<string, number | string | null>;

export interface CurvePoint {
  level: number;
  pcc: number;
  difference: number;
  low: number;
  high: number;
}

export interface Curve {
  unit: string;
  none: number;
  points: CurvePoint[];
}

export interface EvaluationPage {
  name: string;
  genes: Score[];
  /** Baselines by key. */
  titles: Record<string, string>;
  /** Keys of those that see more than the slide. */
  oracles: string[];
  controls: Record<string, { pcc_q1: number; pcc_median: number; pcc_q3: number }>;
  robustness: { clean: number; curves: Record<string, Curve> } | null;
  errors: { share: number; rmse: number | null }[] | null;
  full: boolean;
  gene_url: string;
  evaluate_url: string;
  gate_url: string;
}

export interface DrawnSlide {
  code: string;
  patient: string;
  of: number;
  mpp: number;
  x: number[];
  y: number[];
  measured: (number | null)[];
  predicted: (number | null)[];
}

export interface DrawnGene {
  gene: string;
  unit: string;
  slides: DrawnSlide[];
}
