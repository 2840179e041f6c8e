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
  "kept_audio/wav", "live/byte_queue", "live/option_changes", "live/recording", "live/recording_state", "live/status",
  "microphone/interruptions", "microphone/level", "microphone/microphone_choice", "microphone/shortcut",
  "phone/chinese_phone", "settings/labels", "shared/chinese", "shared/chinese_recording", "shared/chinese_server",
  "shared/chinese_settings", "shared/chinese_transcript", "shared/corrections", "shared/errors", "shared/format",
  "shared/text", "shared/transcript", "shared/transcript_file", "shared/transcript_model",
];
const withoutBrowser = Object.fromEntries(Object.keys(globals.browser).map((name) => [name, "off"]));
const pureGlobals = { TextEncoder: "readonly", btoa: "readonly", console: "readonly" };
const FOLDER = "qwen_asr/web/page/browser";

export default [
  { ignores: [".venv*/**", "**/node_modules/**"] },
  { files: ["**/*.js", "**/*.mjs"], rules, linterOptions: { reportUnusedDisableDirectives: "error" } },
  { files: [`${FOLDER}/**/*.js`], languageOptions: { ecmaVersion: 2022, globals: globals.browser } },
  {
    files: PURE.map((name) => `${FOLDER}/${name}.js`),
    languageOptions: { globals: { ...withoutBrowser, ...pureGlobals } },
  },
  { files: [`${FOLDER}/microphone/worklet.js`], languageOptions: { globals: globals.audioWorklet } },
  { files: ["tests/**/*.mjs", "*.mjs"], languageOptions: { ecmaVersion: 2022, globals: globals.node } },
];
