import {
  imageZoom,
  magnification,
  magnificationLabel,
  magnificationSteps,
  parseMagnification,
  scaleBar,
} from "../../frontend/src/viewer/scale";

describe("scaleBar", () => {
  it.each([
    [0.25, 160, 20, "20 µm"],
    [0.69, 160, 100, "100 µm"],
    [1, 100, 100, "100 µm"],
    [8, 160, 1000, "1 mm"],
    [20, 160, 2000, "2 mm"],
    [0.003, 160, 0.2, "200 nm"],
  ])("at %d µm/px with room for %d px is %d µm", (mpp, room, microns, label) => {
    const bar = scaleBar(mpp, room);
    expect(bar.microns).toBeCloseTo(microns, 9);
    expect(bar.label).toBe(label);
  });

  it("is true to scale, fits, and uses at least 40 % of the room", () => {
    for (let mpp = 0.05; mpp < 200; mpp *= 1.13) {
      const bar = scaleBar(mpp, 160);
      expect(bar.pixels * mpp).toBeCloseTo(bar.microns, 6);
      expect(bar.pixels).toBeLessThanOrEqual(160 + 1e-6);
      expect(bar.pixels).toBeGreaterThanOrEqual(0.4 * 160 - 1e-6);
    }
  });
});

describe("magnification", () => {
  it("is 40× at 0.25 µm/px and 20× at 0.5", () => {
    expect(magnification(0.25)).toBe(40);
    expect(magnification(0.5)).toBe(20);
  });

  it("shows a 40× slide at 10× with four slide pixels to one of the screen", () => {
    expect(imageZoom(10, 0.25)).toBe(0.25);
    expect(magnification(0.25 / imageZoom(10, 0.25))).toBeCloseTo(10, 12);
  });

  it("offers steps up to the slide's own resolution", () => {
    expect(magnificationSteps(0.25)).toEqual([1, 2, 2.5, 5, 10, 20, 40]);
    expect(magnificationSteps(0.2526)).toEqual([1, 2, 2.5, 5, 10, 20, 40]);
    expect(magnificationSteps(0.5)).toEqual([1, 2, 2.5, 5, 10, 20]);
    const steps = magnificationSteps(200 / 290);
    expect(steps.slice(0, -1)).toEqual([1, 2, 2.5, 5, 10]);
    expect(steps.at(-1)).toBeCloseTo(14.5, 9);
  });

  it("is labelled shortly", () => {
    expect([40, 14.5, 2.5, 0.9363].map(magnificationLabel)).toEqual(["40×", "14.5×", "2.5×", "0.94×"]);
  });

  it("is read as people type it", () => {
    expect(["10", "12,5x", " 40 × ", ".5"].map(parseMagnification)).toEqual([10, 12.5, 40, 0.5]);
    expect(["", "x", "0", "-3", "ten", "1e3"].map(parseMagnification)).toEqual(Array(6).fill(null));
  });
});
