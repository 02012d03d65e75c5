/** What `/api/v1/slides/{id}/` answers. Sizes in level-0 pixels, mpp in microns per pixel. */

export interface LayerInfo {
  id: number;
  kind: string;
  unit: string;
  model: { id: number; name: string; version: number };
  n_genes: number;
  /** The slide's patient was in the training part of this model. */
  exposed: boolean;
}

export interface TableInfo {
  id: number;
  source: string;
  row_kind: "cell" | "spot";
  n_rows: number;
  n_genes: number;
  spot_diameter_um: number | null;
  measured: boolean;
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
  tables: TableInfo[];
}

export interface GeneInfo {
  symbol: string;
  measured: boolean;
  layers: number[];
}
