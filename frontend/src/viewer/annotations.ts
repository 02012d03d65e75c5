/** What is said of each row of a table: its type, and how like the training images it looks. */
import { tableFromIPC } from "apache-arrow";

/** Code of a row that no type was named for. */
export const NOT_ASSIGNED = 255;
/** From this byte on a row's image is unlike the model's training images. */
export const BEYOND = 128;

export interface CellTypes {
  origin: "annotated" | "predicted";
  names: string[];
  /** One byte a row: a place in `names`, or NOT_ASSIGNED. */
  codes: Uint8Array;
  /** Of the most likely type, in steps of 1/255; null where somebody annotated the rows. */
  probability: Uint8Array | null;
  /** Name and version of the model; empty for annotations. */
  model: string;
}

export interface Trust {
  /** One byte a row; from BEYOND on it is unlike the training images. */
  ood: Uint8Array;
  /** 255 where a row is to be greyed, else 0. */
  mask: Uint8Array;
  /** Rows that are greyed. */
  beyond: number;
}

function column(bytes: Uint8Array, name: string): [Uint8Array, Map<string, string>, Uint8Array?] {
  const table = tableFromIPC(bytes);
  const values = table.getChild(name)?.toArray() as Uint8Array | undefined;
  if (!values) throw new Error(`The annotations lack their column ${name}.`);
  const probability = table.getChild("probability")?.toArray() as Uint8Array | undefined;
  return [values, table.schema.metadata, probability];
}

export function decodeTypes(bytes: Uint8Array): CellTypes {
  const [codes, meta, probability] = column(bytes, "codes");
  const names = JSON.parse(meta.get("types") ?? "[]") as string[];
  return {
    origin: meta.get("origin") === "predicted" ? "predicted" : "annotated",
    names,
    codes,
    probability: probability ?? null,
    model: meta.get("model") ?? "",
  };
}

export function decodeTrust(bytes: Uint8Array): Trust {
  return trustOf(column(bytes, "ood")[0]);
}

export function trustOf(ood: Uint8Array): Trust {
  const mask = new Uint8Array(ood.length);
  let beyond = 0;
  for (let row = 0; row < ood.length; row++) {
    if (ood[row] < BEYOND) continue;
    mask[row] = 255;
    beyond++;
  }
  return { ood, mask, beyond };
}

export interface TypeCount {
  code: number;
  name: string;
  rows: number;
}

/** Types by number of rows, the most first; rows without one come last. Absent types stay. */
export function typeCounts({ codes, names }: CellTypes): TypeCount[] {
  const counts = new Uint32Array(256);
  for (const code of codes) counts[code]++;
  const found = names.map((name, code) => ({ code, name, rows: counts[code] }));
  found.sort((a, b) => b.rows - a.rows || a.name.localeCompare(b.name));
  if (counts[NOT_ASSIGNED] > 0) {
    found.push({ code: NOT_ASSIGNED, name: "not assigned", rows: counts[NOT_ASSIGNED] });
  }
  return found;
}

/**
 * Okabe and Ito's colours, which people with common colour-vision deficiencies tell apart, without
 * black and with Paul Tol's wine for their pink, which is lost on eosin. From the eighth type on Tol's
 * other muted ones, some of which come close to the former, then all of them darker; the names in
 * the legend tell those apart.
 */
const PALETTE = [
  "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "882255",
  "332288", "88ccee", "44aa99", "117733", "999933", "ddcc77", "cc79a7", "aa4499",
];
const BEST = 7;
// Light, for what greying means is another thing: a row unlike the training images.
const UNNAMED = [247, 247, 247];

/**
 * Red, green, blue of each type. The colour follows from the name, so that a type keeps it where
 * another model or annotation knows other types; where two names meet, the later one moves on.
 */
export function paletteOf(names: string[]): number[][] {
  const places = PALETTE.length * Math.max(1, Math.ceil(names.length / PALETTE.length));
  const taken = new Map<number, string>();
  for (const name of [...names].sort()) {
    const hash = [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 65521, 7);
    const [first, count] = taken.size < BEST ? [0, BEST] : [BEST, places - BEST];
    let step = hash % count;
    while (taken.has(first + step)) step = (step + 1) % count;
    taken.set(first + step, name);
  }
  const of = new Map([...taken].map(([place, name]) => [name, place]));
  return names.map((name) => {
    const place = of.get(name) ?? 0;
    const hex = PALETTE[place % PALETTE.length];
    const darker = 0.7 ** Math.floor(place / PALETTE.length);
    return [0, 2, 4].map((at) => Math.round(parseInt(hex.slice(at, at + 2), 16) * darker));
  });
}

export function colourOf(names: string[], code: number): number[] {
  return code === NOT_ASSIGNED ? UNNAMED : paletteOf(names)[code];
}

/** 256 RGBA entries for the codes; transparent where a type is hidden. */
export function typeColours(names: string[], hidden: ReadonlySet<number>): Uint8Array {
  const out = new Uint8Array(256 * 4);
  paletteOf(names).forEach((rgb, code) => out.set([...rgb, hidden.has(code) ? 0 : 255], code * 4));
  out.set([...UNNAMED, hidden.has(NOT_ASSIGNED) ? 0 : 255], NOT_ASSIGNED * 4);
  return out;
}

/**
 * The hidden types after a click on one. A plain click turns it on or off; `only` leaves it alone,
 * or brings all back when it is alone already.
 */
export function afterClick(
  hidden: ReadonlySet<number>,
  code: number,
  codes: number[],
  only: boolean,
): Set<number> {
  if (only) {
    const others = codes.filter((other) => other !== code);
    const alone = !hidden.has(code) && others.every((other) => hidden.has(other));
    return new Set(alone ? [] : others);
  }
  const next = new Set(hidden);
  if (!next.delete(code)) next.add(code);
  return next;
}
