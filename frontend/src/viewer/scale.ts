/** Microns on screen: the scale bar's length, and magnification as microscopes name it. */

/** Microns per pixel of a 1× image: 40× is 0.25 µm/px, 20× is 0.5 µm/px. */
const MICRONS_AT_1X = 10;
const STEPS = [1, 2, 2.5, 5, 10, 20, 40];

export interface ScaleBar {
  microns: number;
  /** Length in CSS pixels. */
  pixels: number;
  label: string;
}

/** The longest bar of 1, 2 or 5 × 10ⁿ µm that is at most `maxPixels` long. */
export function scaleBar(micronsPerPixel: number, maxPixels: number): ScaleBar {
  const longest = micronsPerPixel * maxPixels;
  const decade = 10 ** Math.floor(Math.log10(longest));
  const factor = longest / decade;
  const step = factor >= 5 ? 5 : factor >= 2 ? 2 : 1;
  const microns = step * decade;
  const label =
    microns >= 1000 ? `${trim(microns / 1000)} mm` : microns >= 1 ? `${trim(microns)} µm` : `${trim(microns * 1000)} nm`;
  return { microns, pixels: microns / micronsPerPixel, label };
}

function trim(value: number): string {
  return String(Number(value.toPrecision(6)));
}

/** Magnification of an image shown at `micronsPerPixel` (microns per CSS pixel). */
export function magnification(micronsPerPixel: number): number {
  return MICRONS_AT_1X / micronsPerPixel;
}

/** Screen pixels per level-0 pixel that show a slide of `mpp` at `wanted` ×. */
export function imageZoom(wanted: number, mpp: number): number {
  return (wanted * mpp) / MICRONS_AT_1X;
}

/** The buttons of a slide: the usual steps up to its own resolution, then that itself. */
export function magnificationSteps(mpp: number): number[] {
  const native = magnification(mpp);
  const steps = STEPS.filter((step) => step <= native * 1.02);
  const last = steps.at(-1) ?? 0;
  return native > last * 1.1 ? [...steps, native] : steps;
}

/** "20×", "14.5×", "0.8×" */
export function magnificationLabel(value: number): string {
  return `${trim(value >= 10 ? Math.round(value * 10) / 10 : Number(value.toPrecision(2)))}×`;
}

/** A typed magnification ("10", "12,5x", "40 ×"), or null. */
export function parseMagnification(text: string): number | null {
  const match = /^\s*(\d+(?:[.,]\d+)?|[.,]\d+)\s*[x×]?\s*$/i.exec(text);
  if (!match) return null;
  const value = Number(match[1].replace(",", "."));
  return value > 0 ? value : null;
}
