/** What `/api/v1/slides/{id}/` answers. Sizes in level-0 pixels, mpp in microns per pixel. */

import type { NotPredictable } from "../shared/scores";

/** ± half_width holds `level` of the measured values; `coverage` is what held-out patients showed. */
export interface Intervals {
  level: number;
  half_width: Record<string, number | undefined>;
  coverage?: { test?: { overall: number } };
}

export interface LayerInfo {
  id: number;
  kind: string;
  unit: string;
  /** null when the model's row is gone. */
  model: { id: number; name: string; version: number } | null;
  n_genes: number | null;
  /** The slide's patient was in the training part of this model. */
  exposed: boolean;
  /** The part that this very slide played for the model, if any. */
  part: "train" | "validation" | "test" | null;
  /** Genes that the model cannot tell from H&E. */
  not_predictable: Record<string, NotPredictable>;
  /** Intervals of the predicted values, where the model has them. */
  intervals: Intervals | null;
}

export interface TableInfo {
  id: number;
  source: string;
  row_kind: "cell" | "spot";
  n_rows: number;
  n_genes: number;
  spot_diameter_um: number | null;
  measured: boolean;
  /** Rows came with cell types. */
  annotated: boolean;
  coordinates_url: string;
  layers: LayerInfo[];
}

export interface SlideInfo {
  id: number;
  code: string;
  patient: string;
  width: number;
  height: number;
  levels: number;
  tile_size: number;
  mpp: number;
  mpp_source: string;
  /** With {z}, {x} and {y} to fill in. */
  tile_url: string;
  synthetic: boolean;
  /** Models that would not predict on the slide, and the share of it unlike their training. */
  declined: { model: string; share: number; threshold: number }[];
  tables: TableInfo[];
}

export interface GeneInfo {
  symbol: string;
  measured: boolean;
  layers: number[];
}
