/** The held-out slide, measured beside predicted: its cells in the colours of one gene. */
import { getBytes } from "../shared/api";
import { byId } from "../shared/dom";
import { formatFixed } from "../shared/format";
import { COLOUR_MAPS } from "../viewer/colormaps";
import { SlideData } from "../viewer/data";
import { byteOf, decodeCoordinates, type Coordinates, type Expression } from "../viewer/expression";
import { DEFAULT_STATE, toQuery } from "../viewer/permalink";
import { percentileRange, type ValueRange } from "../viewer/scalePanel";
import type { LayerInfo, SlideInfo, TableInfo } from "../viewer/types";

const CELL_UM = 8;
const LEAST_PX = 1.2;
/** Points smaller than this are squares: nobody sees the difference, and they draw faster. */
const ROUND_FROM_PX = 2.5;
const TISSUE_OPACITY = 0.4;

export interface HeldOut {
  slide: SlideInfo & { url: string; thumbnail_url: string };
  table: TableInfo;
  layer: LayerInfo;
  model: { id: number; name: string };
  genes: { gene: string; pcc: number }[];
  scored_on: string;
}

/** Entry 0…255 of a colour map for each of the 256 bytes that a value can have. */
export function entries(expression: Expression, { low, high }: ValueRange): Uint8ClampedArray {
  const [first, last] = [byteOf(expression, low), byteOf(expression, high)];
  const width = last > first ? last - first : 1;
  return Uint8ClampedArray.from({ length: 256 }, (_, byte) => ((byte - first) / width) * 255);
}

/** The viewer with the same gene of the same slide, measured and predicted side by side. */
export function viewerLink({ slide, table, layer }: HeldOut, gene: string): string {
  const state = { ...DEFAULT_STATE, table: table.id, layer: layer.id, gene, split: true };
  return `${slide.url}?${toQuery(state)}`;
}

/** What the pictures show, in a sentence, for those who do not see them. */
export function described(origin: string, held: HeldOut, shown: Expression): string {
  const counts = new Uint32Array(256);
  for (const byte of shown.bytes) counts[byte]++;
  let below = 0;
  const middle = counts.findIndex((count) => (below += count) * 2 >= shown.bytes.length);
  const median = formatFixed(shown.offset + shown.scale * Math.max(middle, 0), 2);
  return (
    `${shown.symbol}, ${origin}, on ${shown.bytes.length} ${held.table.row_kind}s of slide ` +
    `${held.slide.code}: median ${median}, 99th percentile ${formatFixed(shown.p99, 2)} ${shown.unit}`
  );
}

export class HeldOutPicture {
  private readonly data = new SlideData();
  private readonly tissue: Promise<HTMLImageElement>;
  private readonly places: Promise<Coordinates>;
  private readonly choice = byId<HTMLSelectElement>("picture-gene");
  private turn = 0;

  constructor(private readonly held: HeldOut) {
    const tissue = new Image();
    tissue.src = held.slide.thumbnail_url;
    this.tissue = tissue.decode().then(() => tissue);
    this.places = getBytes(held.table.coordinates_url).then(decodeCoordinates);
    drawScale(byId<HTMLCanvasElement>("scale"));
  }

  /** Draws the chosen gene, now and whenever another is chosen. */
  async start(failed: (error: unknown) => void): Promise<void> {
    this.choice.addEventListener("change", () => void this.show().catch(failed));
    await this.show();
  }

  private async show(): Promise<void> {
    const turn = ++this.turn;
    const { held, data } = this;
    const gene = this.choice.value;
    byId<HTMLAnchorElement>("picture-link").href = viewerLink(held, gene);
    const [tissue, places, measured, predicted] = await Promise.all([
      this.tissue,
      this.places,
      data.measured(held.table, held.layer.id, gene),
      data.predicted(held.layer.id, gene),
    ]);
    if (turn !== this.turn) return;
    const range = percentileRange([measured]);
    const shown = [["measured", measured], ["predicted", predicted]] as const;
    for (const [origin, expression] of shown) {
      const canvas = byId<HTMLCanvasElement>(`picture-${origin}`);
      draw(canvas, held, tissue, places, expression, range);
      canvas.setAttribute("aria-label", described(origin, held, expression));
    }
    byId("scale-low").textContent = formatFixed(range.low, 1);
    byId("scale-high").textContent = formatFixed(range.high, 1);
    byId("scale-unit").textContent = measured.unit;
    byId("picture-score").textContent = this.score(gene, predicted.pearson);
    byId("pair").setAttribute("aria-busy", "false");
  }

  private score(gene: string, here: number | null): string {
    const pcc = this.held.genes.find((score) => score.gene === gene)?.pcc;
    const all = pcc === undefined ? "" : `Pearson ${formatFixed(pcc, 2)} on ${this.held.scored_on}`;
    return here === null ? all : `${all}; ${formatFixed(here, 2)} on this slide`;
  }
}

function draw(
  canvas: HTMLCanvasElement,
  { slide, table }: HeldOut,
  tissue: HTMLImageElement,
  { x, y }: Coordinates,
  shown: Expression,
  range: ValueRange,
): void {
  const context = canvas.getContext("2d");
  if (!context) throw new Error("This browser draws no pictures.");
  const scale = canvas.width / slide.width;
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalAlpha = TISSUE_OPACITY;
  context.drawImage(tissue, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
  const microns = table.spot_diameter_um ?? CELL_UM;
  const side = Math.max(LEAST_PX, (microns / slide.mpp) * scale);
  const colours = styles(entries(shown, range));
  for (let row = 0; row < x.length; row++) {
    context.fillStyle = colours[shown.bytes[row]];
    const [left, top] = [x[row] * scale, y[row] * scale];
    if (side < ROUND_FROM_PX) {
      context.fillRect(left - side / 2, top - side / 2, side, side);
    } else {
      context.beginPath();
      context.arc(left, top, side / 2, 0, 2 * Math.PI);
      context.fill();
    }
  }
}

/** CSS colour of each byte. */
function styles(entry: Uint8ClampedArray): string[] {
  const map = COLOUR_MAPS.viridis;
  return Array.from(entry, (at) => `rgb(${map[at * 4]} ${map[at * 4 + 1]} ${map[at * 4 + 2]})`);
}

function drawScale(canvas: HTMLCanvasElement): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  const row = new ImageData(new Uint8ClampedArray(COLOUR_MAPS.viridis), 256, 1);
  context.putImageData(row, 0, 0);
}
