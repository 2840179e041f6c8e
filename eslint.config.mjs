import js from "@eslint/js";
import globals from "globals";

const rules = {
  ...js.configs.recommended.rules,
  "eqeqeq": "error",
  "max-len": ["error", { code: 120, ignoreStrings: true }],
  "no-implicit-globals": "error",
  "no-unused-vars": ["error", { args: "after-used" }],
  "no-var": "error",
  "object-shorthand": "error",
  "prefer-const": "error",
  "quotes": ["error", "double", { avoidEscape: true }],
  "semi": "error",
};

// Modules without access to the browser: what they need is passed to them, so that Node can test them.
const PURE = [
  "files/chinese_files", "files/event_stream", "files/file_state", "files/position", "files/time_left",
  "live/byte_queue", "live/recording", "live/recording_state", "live/status", "settings/labels", "shared/chinese",
  "shared/chinese_server", "shared/chinese_settings", "shared/errors", "shared/format", "shared/text", "shared/transcript",
];
const withoutBrowser = Object.fromEntries(Object.keys(globals.browser).map((name) => [name, "off"]));
const pureGlobals = { btoa: "readonly", console: "readonly" };
const FOLDER = "qwen_asr/web/page/browser";

export default [
  { ignores: [".venv/**", ".venv-clients/**", "**/node_modules/**"] },
  { files: ["**/*.js", "**/*.mjs"], rules, linterOptions: { reportUnusedDisableDirectives: "error" } },
  { files: [`${FOLDER}/**/*.js`], languageOptions: { ecmaVersion: 2022, globals: globals.browser } },
  {
    files: PURE.map((name) => `${FOLDER}/${name}.js`),
    languageOptions: { globals: { ...withoutBrowser, ...pureGlobals } },
  },
  { files: [`${FOLDER}/live/worklet.js`], languageOptions: { globals: globals.audioWorklet } },
  { files: ["tests/**/*.mjs", "*.mjs"], languageOptions: { ecmaVersion: 2022, globals: globals.node } },
];
