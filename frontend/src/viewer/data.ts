/** What the viewer fetches, each thing once: coordinates per table, one byte a row per gene. */
import { getBytes, getJson } from "../shared/api";
import { decodeTrust, decodeTypes, type CellTypes, type Trust } from "./annotations";
import {
  decodeCoordinates,
  decodeExpression,
  type Coordinates,
  type Expression,
} from "./expression";
import { PointGrid } from "./grid";
import type { GeneInfo, TableInfo } from "./types";

/** Genes kept per page: at a million cells one is a megabyte. */
const KEPT_EXPRESSIONS = 32;
/** Matches listed in the search field, best first. */
const LISTED_GENES = 50;

export interface TablePoints extends Coordinates {
  grid: PointGrid;
}

export class SlideData {
  private readonly tables = new Map<number, Promise<TablePoints>>();
  private readonly known = new Map<string, Promise<GeneInfo | null>>();
  private readonly expressions = new Map<string, Promise<Expression>>();
  private readonly types = new Map<string, Promise<CellTypes>>();
  private readonly trusts = new Map<string, Promise<Trust>>();

  points(table: TableInfo): Promise<TablePoints> {
    let found = this.tables.get(table.id);
    if (!found) {
      found = getBytes(table.coordinates_url).then((bytes) => {
        const { x, y } = decodeCoordinates(bytes);
        return { x, y, grid: new PointGrid(x, y) };
      });
      this.remember(this.tables, table.id, found);
    }
    return found;
  }

  /** Measured values over the panel that the layer shares with the table, where one is chosen. */
  measured(table: TableInfo, layer: number | null, symbol: string): Promise<Expression> {
    const shared = layer === null ? "" : `?layer=${layer}`;
    return this.expression(
      `/api/v1/cell-tables/${table.id}/expression/${encodeURIComponent(symbol)}/${shared}`,
    );
  }

  predicted(layer: number, symbol: string): Promise<Expression> {
    return this.expression(`/api/v1/layers/${layer}/expression/${encodeURIComponent(symbol)}/`);
  }

  /** The gene of exactly this symbol, or null where the table has none such. */
  gene(table: TableInfo, symbol: string): Promise<GeneInfo | null> {
    const key = `${table.id} ${symbol}`;
    let found = this.known.get(key);
    if (!found) {
      found = this.genes(table, symbol).then(
        (genes) => genes.find((gene) => gene.symbol === symbol) ?? null,
      );
      this.remember(this.known, key, found);
    }
    return found;
  }

  async genes(table: TableInfo, search: string): Promise<GeneInfo[]> {
    const url = `/api/v1/cell-tables/${table.id}/genes/?limit=${LISTED_GENES}&search=${encodeURIComponent(search)}`;
    return (await getJson<{ genes: GeneInfo[] }>(url)).genes;
  }

  predictedTypes(layer: number): Promise<CellTypes> {
    return this.column(this.types, `/api/v1/layers/${layer}/annotations/`, decodeTypes);
  }

  annotatedTypes(table: TableInfo): Promise<CellTypes> {
    return this.column(this.types, `/api/v1/cell-tables/${table.id}/cell-types/`, decodeTypes);
  }

  trust(layer: number): Promise<Trust> {
    return this.column(this.trusts, `/api/v1/layers/${layer}/annotations/`, decodeTrust);
  }

  private column<T>(
    kept: Map<string, Promise<T>>,
    url: string,
    decode: (bytes: Uint8Array) => T,
  ): Promise<T> {
    const known = kept.get(url);
    if (known) return known;
    const made = getBytes(url).then(decode);
    this.remember(kept, url, made);
    return made;
  }

  private expression(url: string): Promise<Expression> {
    const known = this.expressions.get(url);
    if (known) return known;
    const made = getBytes(url).then(decodeExpression);
    this.remember(this.expressions, url, made);
    for (const oldest of this.expressions.keys()) {
      if (this.expressions.size <= KEPT_EXPRESSIONS) break;
      this.expressions.delete(oldest);
    }
    return made;
  }

  /** A failed request is forgotten, so that asking again tries again. */
  private remember<K, V>(kept: Map<K, Promise<V>>, key: K, made: Promise<V>): void {
    kept.set(key, made);
    made.catch(() => kept.delete(key));
  }
}
