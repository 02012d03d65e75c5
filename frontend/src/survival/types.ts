/** The shapes of the survival API. */

export type Source = "clinical" | "measured" | "predicted" | "risk";
export type Cut = "median" | "tertiles" | "quartiles" | "value" | "levels";

export interface StratifierRef {
  source: Source;
  table: number | null;
  name: string;
}

/** A Kaplan–Meier request; months since the endpoint's time zero. */
export interface KmRequest {
  endpoint: string;
  stratifier: StratifierRef | null;
  cut: Cut | null;
  value: number | null;
  levels: string[];
  horizon: number | null;
  landmark: number | null;
  causes: number[];
  include_training: boolean;
}

export interface Endpoint {
  code: string;
  label: string;
  time_zero: string;
  causes: Record<string, string>;
}

export interface Urls {
  km: string;
  csv: string;
  svg: string;
  stratifiers: string;
  saved: string;
  fit: string;
}

export interface Page {
  slug: string;
  synthetic: boolean;
  endpoints: Endpoint[];
  opening: KmRequest;
  may_save: boolean;
  urls: Urls;
}

/** Something to divide the cohort by, as the search finds it. */
export interface StratifierOption extends StratifierRef {
  table_name: string;
  label: string;
  unit: string;
  model: string;
  numeric: boolean;
  levels: string[];
}

export interface Stratum {
  label: string;
  n: number;
  events: number;
  median_text: string;
}

export interface RiskRow {
  label: string;
  at_risk: number[];
  censored: number[];
  events: number[];
}

export interface RiskTable {
  ticks: number[];
  strata: RiskRow[];
}

export interface HazardRatio {
  label: string;
  reference: string;
  ratio: number | null;
  text: string;
  p_text: string;
  ph_p_text: string;
}

export interface Trace {
  x: number[];
  y: number[];
  legendgroup: string;
  meta: { part: "band" | "curve" | "tail" | "censored" };
  line?: { color?: string; dash?: string };
}

export interface Figure {
  data: Trace[];
  layout: { xaxis: { range: [number, number] } & Record<string, unknown> } & Record<string, unknown>;
}

export interface Analysis {
  title: string;
  labels: string[];
  n: number;
  events: number;
  n_cohort: number;
  strata: Stratum[];
  at_risk: RiskTable;
  /** `test` says which test this is: with delayed entry the likelihood-ratio test of the Cox model. */
  log_rank: {
    test: "log-rank" | "likelihood-ratio";
    explained: string;
    statistic: number;
    df: number;
    p: number;
    p_text: string;
  } | null;
  hazard_ratios: HazardRatio[];
  exclusions: { reason: string; n: number; patients: string[] }[];
  notes: string[];
  methods: string;
  figure: Figure;
  request: KmRequest;
  cut: Cut | "none";
  query: string;
  stratifier:
    | (Pick<StratifierOption, "source" | "name" | "label" | "unit" | "numeric" | "model"> & {
        table_name: string;
        levels: string[];
      })
    | null;
}

export interface Saved {
  id: number;
  name: string;
  query: string;
  created_by: string;
  created_at: string;
  deletable: boolean;
}
