import { COLOUR_MAPS, cssColour } from "../../frontend/src/viewer/colormaps";

const entry = (map: keyof typeof COLOUR_MAPS, index: number): number[] => [
  ...COLOUR_MAPS[map].slice(index * 4, index * 4 + 3),
];

/** Relative luminance of sRGB, as WCAG defines it. */
function luminance(rgb: number[]): number {
  const [r, g, b] = rgb.map((byte) => {
    const share = byte / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

describe("colour maps", () => {
  it("has viridis' published ends and middle", () => {
    expect(entry("viridis", 0)).toEqual([0x44, 0x01, 0x54]);
    expect(entry("viridis", 255)).toEqual([0xfd, 0xe7, 0x25]);
    const middle = entry("viridis", 128);
    [0x21, 0x91, 0x8c].forEach((byte, at) => {
      expect(Math.abs(middle[at] - byte)).toBeLessThanOrEqual(2);
    });
  });

  it.each(["viridis", "cividis"] as const)("%s grows lighter all the way", (map) => {
    for (let index = 5; index < 256; index += 5) {
      expect(luminance(entry(map, index))).toBeGreaterThan(luminance(entry(map, index - 5)));
    }
  });

  it("diverges from a light middle to two dark ends", () => {
    const [low, middle, high] = [0, 127, 255].map((index) => luminance(entry("diverging", index)));
    expect(middle).toBeGreaterThan(0.8);
    expect(Math.max(low, high)).toBeLessThan(0.2);
  });

  it("keeps entries within the table", () => {
    expect(cssColour("viridis", -5)).toBe("rgb(68 1 84)");
    expect(cssColour("viridis", 400)).toBe("rgb(253 231 37)");
  });
});
