/** What the page "What was planted" is drawn from. */

export type Link = "morphology" | "surroundings" | "nothing";

/** `possible` and `found`: Pearson of the oracle and of the model in use, held out. */
export interface PlantedGene {
  symbol: string;
  link: Link;
  follows: string;
  possible: number | null;
  found: number | null;
  /** Found of possible; null where next to nothing is possible. */
  share: number | null;
  not_predictable: boolean;
}

/** Log hazard ratios: as planted, and as a Cox fit of the true columns recovers them. */
export interface PlantedHazard {
  label: string;
  unit: string;
  planted: number;
  fitted: number | null;
  low: number | null;
  high: number | null;
}

export interface PlantedPage {
  cells: { label: string; n: number; share: number }[];
  contact: { by_patient: { patient: string; site: string; contact: number }[] };
  hazards: PlantedHazard[];
  genes: PlantedGene[];
}
