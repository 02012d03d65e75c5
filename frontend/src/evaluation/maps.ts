/** Spatial maps of one gene on one slide: a dot per row, measured, predicted and their difference. */
import { COLOUR_MAPS, type ColourMapName } from "../viewer/colormaps";
import type { DrawnSlide } from "./types";

const ROW_UM = 14; // a dot is about half a cell's crop wide, and two pixels at least

/** Values for the range of a colour map: the 1st and 99th percentile of those that are numbers. */
export function range(values: (number | null)[]): [number, number] {
  const sorted = values.filter((value): value is number => value !== null).sort((a, b) => a - b);
  if (sorted.length === 0) return [0, 1];
  const at = (share: number): number => sorted[Math.round(share * (sorted.length - 1))];
  const [low, high] = [at(0.01), at(0.99)];
  return high > low ? [low, high] : [low, low + 1];
}

/** Draws the rows of a slide into a canvas, coloured by value; rows without a number are left out. */
export function drawMap(
  canvas: HTMLCanvasElement,
  slide: DrawnSlide,
  values: (number | null)[],
  [low, high]: [number, number],
  colours: ColourMapName,
): void {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  if (!context || slide.x.length === 0) return;
  const [left, right] = [Math.min(...slide.x), Math.max(...slide.x)];
  const [top, bottom] = [Math.min(...slide.y), Math.max(...slide.y)];
  const scale = 0.96 * Math.min(width / (right - left || 1), height / (bottom - top || 1));
  const [x0, y0] = [(width - (right - left) * scale) / 2, (height - (bottom - top) * scale) / 2];
  const size = Math.max((ROW_UM / slide.mpp) * scale, 2 * ratio);
  const map = COLOUR_MAPS[colours];
  context.clearRect(0, 0, width, height);
  // High values last, so that they are not hidden under the many low ones.
  const order = values.map((value, row) => ({ value, row })).filter(({ value }) => value !== null);
  order.sort((a, b) => Number(a.value) - Number(b.value));
  for (const { value, row } of order) {
    const share = (Number(value) - low) / (high - low);
    const entry = 4 * Math.max(0, Math.min(255, Math.round(255 * share)));
    context.fillStyle = `rgb(${String(map[entry])} ${String(map[entry + 1])} ${String(map[entry + 2])})`;
    context.beginPath();
    context.arc(x0 + (slide.x[row] - left) * scale, y0 + (slide.y[row] - top) * scale, size / 2, 0, 7);
    context.fill();
  }
}

/** Measured minus predicted; null where either is no number. */
export function residual({ measured, predicted }: DrawnSlide): (number | null)[] {
  return measured.map((value, row) => {
    const other = predicted[row];
    return value === null || other === null ? null : value - other;
  });
}
