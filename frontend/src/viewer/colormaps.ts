/**
 * Colour maps as 256 RGBA entries. Viridis and cividis (both CC0) are interpolated from every fifth
 * entry; the diverging map runs from blue through near-white to orange, so that no map here asks a
 * reader to tell red from green.
 */

export type ColourMapName = "viridis" | "cividis" | "diverging";

const VIRIDIS =
  "44015446085c471063481769481d6f482475472a7a46307e453781433d844142873f48893d4e8a" +
  "3a538b38598c355e8d33638d31688e2e6d8e2c718e2a768e297b8e27808e25848e23898e218e8d" +
  "20928c1f978b1e9c891fa18821a58524aa8328ae802eb37c35b7793dbc7446c06f50c46a5ac864" +
  "65cb5e70cf577cd25089d54895d840a2da37b0dd2fbddf26cae11fd8e219e5e419f1e51dfde725";
const CIVIDIS =
  "00224e002656002a5f002d68003070083370163770203a6f273e6e2e416d34456c3a486c3f4c6c" +
  "444f6c49536c4e566c535a6d575d6d5c616e60646f656870696b716d6f727272747676767a7a78" +
  "7e7d788381798885788d8878928c789690779b9476a09875a59c74aaa073afa471b5a86fbaac6d" +
  "bfb06bc4b468c9b965cfbd62d4c15fdac65bdfca57e5cf52ead34cf0d846f6dd3ffce236fee838";
const DIVERGING = "1f4e8c5b8fc7f4f2efe0914a9c4a00";

/** 256 × 4 bytes, opaque, linearly interpolated between evenly spaced `anchors` (RRGGBB…). */
function table(anchors: string): Uint8Array {
  const rgb = anchors.match(/../g)?.map((pair) => parseInt(pair, 16)) ?? [];
  const last = rgb.length / 3 - 1;
  const out = new Uint8Array(256 * 4);
  for (let entry = 0; entry < 256; entry++) {
    const place = (entry / 255) * last;
    const left = Math.min(Math.floor(place), last - 1);
    for (let channel = 0; channel < 3; channel++) {
      const from = rgb[left * 3 + channel];
      const to = rgb[(left + 1) * 3 + channel];
      out[entry * 4 + channel] = Math.round(from + (to - from) * (place - left));
    }
    out[entry * 4 + 3] = 255;
  }
  return out;
}

export const COLOUR_MAPS: Record<ColourMapName, Uint8Array> = {
  viridis: table(VIRIDIS),
  cividis: table(CIVIDIS),
  diverging: table(DIVERGING),
};

/** CSS colour of entry 0…255. */
export function cssColour(map: ColourMapName, entry: number): string {
  const colours = COLOUR_MAPS[map];
  const at = Math.min(255, Math.max(0, Math.round(entry))) * 4;
  return `rgb(${colours[at]} ${colours[at + 1]} ${colours[at + 2]})`;
}
