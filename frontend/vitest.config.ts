import { resolve } from "node:path";

import { defineConfig } from "vitest/config";

// The tests stand beside those of the other languages, in tests/frontend.
export default defineConfig({
  root: resolve(import.meta.dirname, ".."),
  cacheDir: resolve(import.meta.dirname, "node_modules/.vite"),
  test: {
    globals: true,
    include: ["tests/frontend/**/*.test.ts"],
  },
});
