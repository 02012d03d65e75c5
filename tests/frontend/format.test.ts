import { formatDuration } from "../../frontend/src/shared/format";

describe("formatDuration", () => {
  it.each([
    [0.4, "0 s"],
    [59.6, "1 min"],
    [200, "3 min 20 s"],
    [3600, "1 h"],
    [7500, "2 h 5 min"],
  ])("says %d seconds as %s", (seconds, text) => {
    expect(formatDuration(seconds)).toBe(text);
  });
});
