import { readdirSync } from "node:fs";
import { basename, resolve } from "node:path";

import { defineConfig } from "vite";

const entriesFolder = resolve(import.meta.dirname, "src/entries");
const entries = Object.fromEntries(
  readdirSync(entriesFolder)
    .filter((file) => file.endsWith(".ts"))
    .map((file) => [basename(file, ".ts"), resolve(entriesFolder, file)]),
);

export default defineConfig({
  // Relative, so that the files work under whatever STATIC_URL a deployment chooses.
  base: "./",
  cacheDir: resolve(import.meta.dirname, "node_modules/.vite"),
  build: {
    outDir: "dist",
    manifest: true,
    // A data: URL would need a wider Content-Security-Policy.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1500,
    rolldownOptions: { input: entries },
  },
});
