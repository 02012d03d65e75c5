/** The colour scale in the side panel: legend, histogram, range slider. */
import { byId } from "../shared/dom";
import { formatFixed } from "../shared/format";
import { COLOUR_MAPS, cssColour, type ColourMapName } from "./colormaps";
import { histogram, type Expression } from "./expression";

const BARS = 64;
const STEPS = 400;

export interface ValueRange {
  low: number;
  high: number;
}

/** From the first to the last value that any of the shown layers holds. */
export function fullRange(shown: Expression[]): ValueRange {
  const low = Math.min(...shown.map(({ min }) => min));
  const high = Math.max(...shown.map(({ max }) => max));
  if (shown[0].origin === "difference") {
    const limit = Math.max(Math.abs(low), Math.abs(high)) || 1;
    return { low: -limit, high: limit };
  }
  return { low, high: high > low ? high : low + 1 };
}

/** 1st to 99th percentile; the full range where a gene is so sparse that these coincide. */
export function percentileRange(shown: Expression[]): ValueRange {
  const low = Math.min(...shown.map(({ p01 }) => p01));
  const high = Math.max(...shown.map(({ p99 }) => p99));
  return high > low ? { low, high } : fullRange(shown);
}

export class ScalePanel {
  private readonly low = byId<HTMLInputElement>("range-low");
  private readonly high = byId<HTMLInputElement>("range-high");

  /** `changed` gets null where the percentile range is wanted. */
  constructor(private readonly changed: (range: ValueRange | null, full: boolean) => void) {
    for (const [slider, other, sign] of [
      [this.low, this.high, 1],
      [this.high, this.low, -1],
    ] as const) {
      slider.addEventListener("input", () => {
        // The ends keep one step apart and never cross.
        const limit = Number(other.value) - sign * Number(other.step);
        if (sign * (Number(slider.value) - limit) > 0) slider.value = String(limit);
        this.changed({ low: Number(this.low.value), high: Number(this.high.value) }, false);
      });
    }
    byId("range-percentile").addEventListener("click", () => this.changed(null, false));
    byId("range-full").addEventListener("click", () => this.changed(null, true));
  }

  show(shown: Expression[], range: ValueRange, map: ColourMapName): void {
    const whole = fullRange(shown);
    const [first, last] = [Math.min(whole.low, range.low), Math.max(whole.high, range.high)];
    for (const [slider, value] of [
      [this.low, range.low],
      [this.high, range.high],
    ] as const) {
      slider.min = String(first);
      slider.max = String(last);
      slider.step = String((last - first) / STEPS);
      slider.value = String(value);
      slider.setAttribute("aria-valuetext", `${formatFixed(value, 2)} ${shown[0].unit}`);
    }
    byId("unit").textContent = shown[0].unit;
    byId("legend-low").textContent = `≤ ${formatFixed(range.low, 2)}`;
    byId("legend-middle").textContent = formatFixed((range.low + range.high) / 2, 2);
    byId("legend-high").textContent = `≥ ${formatFixed(range.high, 2)}`;
    byId("hide-lowest-label").textContent = `Hide ≤ ${formatFixed(range.low, 2)}`;
    drawLegend(byId<HTMLCanvasElement>("legend"), map);
    drawHistogram(byId<HTMLCanvasElement>("histogram"), shown, { low: first, high: last }, range, map);
  }
}

function drawLegend(canvas: HTMLCanvasElement, map: ColourMapName): void {
  const pixels = new ImageData(new Uint8ClampedArray(COLOUR_MAPS[map]), 256, 1);
  canvas.getContext("2d")?.putImageData(pixels, 0, 0);
}

/** Share of the rows per value, on a square-root axis: most genes are zero in most cells. */
function drawHistogram(
  canvas: HTMLCanvasElement,
  shown: Expression[],
  domain: ValueRange,
  range: ValueRange,
  map: ColourMapName,
): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  const bars = new Float64Array(BARS);
  for (const expression of shown) {
    histogram(expression.bytes).forEach((count, byte) => {
      const value = expression.offset + expression.scale * byte;
      const place = (value - domain.low) / (domain.high - domain.low);
      const bar = Math.min(BARS - 1, Math.max(0, Math.floor(place * BARS)));
      bars[bar] += count / expression.bytes.length;
    });
  }
  const tallest = Math.max(...bars) || 1;
  const width = canvas.width / BARS;
  context.clearRect(0, 0, canvas.width, canvas.height);
  bars.forEach((share, bar) => {
    const value = domain.low + ((bar + 0.5) / BARS) * (domain.high - domain.low);
    context.fillStyle = cssColour(map, ((value - range.low) / (range.high - range.low)) * 255);
    const height = share > 0 ? Math.max(2, Math.sqrt(share / tallest) * canvas.height) : 0;
    context.fillRect(bar * width, canvas.height - height, width - 1, height);
  });
  canvas.setAttribute(
    "aria-label",
    `Histogram of ${shown[0].symbol}, ${formatFixed(domain.low, 2)} to ${formatFixed(domain.high, 2)}`,
  );
}
