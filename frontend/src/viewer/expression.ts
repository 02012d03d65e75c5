/** One gene over the rows of a cell table: quantised values and what they mean. */

import { tableFromIPC } from "apache-arrow";

export type Origin = "measured" | "predicted" | "difference";

export interface Expression {
  origin: Origin;
  symbol: string;
  unit: string;
  /** One byte a row; value = offset + scale × byte. */
  bytes: Uint8Array;
  scale: number;
  offset: number;
  min: number;
  max: number;
  p01: number;
  p99: number;
  /** Model name and version that made it; empty for measured values. */
  model: string;
  /** Pearson correlation of predicted with measured on these rows, where both exist. */
  pearson: number | null;
}

export interface Coordinates {
  /** Level-0 pixels, one entry a row. */
  x: Float32Array;
  y: Float32Array;
}

export function decodeCoordinates(bytes: Uint8Array): Coordinates {
  const table = tableFromIPC(bytes);
  const x = table.getChild("x")?.toArray() as Float32Array | undefined;
  const y = table.getChild("y")?.toArray() as Float32Array | undefined;
  if (!x || !y) throw new Error("The coordinates lack a column x or y.");
  return { x, y };
}

export function decodeExpression(bytes: Uint8Array): Expression {
  const table = tableFromIPC(bytes);
  const values = table.getChild("value")?.toArray() as Uint8Array | undefined;
  if (!values) throw new Error("The expression lacks its column value.");
  const meta = table.schema.metadata;
  const number = (key: string): number => {
    const value = Number(meta.get(key) ?? NaN);
    if (!Number.isFinite(value)) throw new Error(`The expression lacks a number ${key}.`);
    return value;
  };
  const correlation = meta.get("pearson") ?? "";
  const pearson = correlation === "" ? NaN : Number(correlation);
  return {
    origin: meta.get("origin") === "predicted" ? "predicted" : "measured",
    symbol: meta.get("symbol") ?? "",
    unit: meta.get("unit") ?? "",
    bytes: values,
    scale: number("scale"),
    offset: number("offset"),
    min: number("min"),
    max: number("max"),
    p01: number("p01"),
    p99: number("p99"),
    model: meta.get("model") ?? "",
    pearson: Number.isFinite(pearson) ? pearson : null,
  };
}

export function valueAt(expression: Expression, row: number): number {
  return expression.offset + expression.scale * expression.bytes[row];
}

/** Byte position (not rounded) of a value, so that a range in the unit becomes one in bytes. */
export function byteOf(expression: Expression, value: number): number {
  return expression.scale > 0 ? (value - expression.offset) / expression.scale : 0;
}

/** How many rows hold each of the 256 bytes. */
export function histogram(bytes: Uint8Array): Uint32Array {
  const counts = new Uint32Array(256);
  for (const byte of bytes) counts[byte]++;
  return counts;
}

/** The smallest byte with at least `share` of the rows at or below it. */
function quantile(counts: Uint32Array, rows: number, share: number): number {
  let seen = 0;
  for (let byte = 0; byte < 256; byte++) {
    seen += counts[byte];
    if (seen >= share * rows) return byte;
  }
  return 255;
}

/** Predicted − measured in their common unit, symmetric about zero so that zero is mid-scale. */
export function difference(predicted: Expression, measured: Expression): Expression {
  const rows = predicted.bytes.length;
  if (measured.bytes.length !== rows) throw new Error("The two layers have different rows.");
  if (measured.unit !== predicted.unit) throw new Error("The two layers have different units.");
  let largest = 0;
  let [min, max] = rows > 0 ? [Infinity, -Infinity] : [0, 0];
  const values = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    const value = valueAt(predicted, row) - valueAt(measured, row);
    values[row] = value;
    min = Math.min(min, value);
    max = Math.max(max, value);
    largest = Math.max(largest, Math.abs(value));
  }
  // 254 steps: byte 127 is exactly zero.
  const scale = largest / 127 || 1;
  const bytes = new Uint8Array(rows);
  const sizes = new Uint8Array(rows);
  for (let row = 0; row < rows; row++) {
    bytes[row] = Math.round(values[row] / scale) + 127;
    sizes[row] = Math.abs(bytes[row] - 127);
  }
  const limit = (quantile(histogram(sizes), rows, 0.99) || 127) * scale;
  return {
    ...predicted,
    origin: "difference",
    bytes,
    scale,
    offset: -127 * scale,
    min,
    max,
    p01: -limit,
    p99: limit,
  };
}

/** Whether values come from a model, wholly or in part. */
export function isModels({ origin }: Expression): boolean {
  return origin !== "measured";
}
