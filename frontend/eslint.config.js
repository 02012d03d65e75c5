import eslint from "@eslint/js";
import tseslint from "typescript-eslint";

// Run from the repository root (see package.json), so that tests/frontend is linted too.
export default tseslint.config(
  { ignores: ["frontend/dist/**", "**/node_modules/**"] },
  eslint.configs.recommended,
  ...tseslint.configs.recommendedTypeChecked,
  ...tseslint.configs.stylisticTypeChecked,
  {
    languageOptions: {
      parserOptions: { project: "./tsconfig.json", tsconfigRootDir: import.meta.dirname },
    },
    rules: {
      "@typescript-eslint/consistent-type-imports": "error",
      "@typescript-eslint/explicit-module-boundary-types": "error",
      "@typescript-eslint/switch-exhaustiveness-check": "error",
      "eqeqeq": "error",
      "no-restricted-properties": [
        "error",
        { property: "innerHTML", message: "Use textContent or shared/dom's element()." },
        { property: "outerHTML", message: "Use textContent or shared/dom's element()." },
        { property: "insertAdjacentHTML", message: "Use textContent or shared/dom's element()." },
      ],
    },
  },
);
