// The language of the page's own words. English stands in the code, and is the key of every translation.

import { CHINESE } from "./chinese.js";
import { CHINESE_SERVER, NUMBERS } from "./chinese_server.js";

const TABLES = { en: {}, zh: { ...CHINESE, ...CHINESE_SERVER } };
const NAME = /\{(\w+)\}/g;

// What the server writes with values in it: the expression that finds them, and the translation that takes them.
const PATTERNS = { en: [], zh: patterns(CHINESE_SERVER) };

let code = "en";

function patterns(table) {
  const literally = (text) => text.replace(/[.*+?^$()|[\]\\]/g, "\\$&");
  const group = (_, name) => `(?<${name}>${NUMBERS.includes(name) ? "[\\d.]+" : ".+?"})`;
  return Object.entries(table).filter(([english]) => /\{\w+\}/.test(english)).map(([english, translation]) => ({
    expression: new RegExp(`^${literally(english).replace(NAME, group)}$`), translation,
  }));
}

// "en" or "zh": what the user has chosen, else the browser's first language that the page knows.
export function preferredLanguage(chosen, browserLanguages) {
  if (chosen in TABLES) return chosen;
  const known = browserLanguages.map((language) => language.slice(0, 2).toLowerCase()).filter((it) => it in TABLES);
  return known[0] ?? "en";
}

export function setLanguage(chosen) { code = chosen in TABLES ? chosen : "en"; }

export function language() { return code; }

// `english` in the page's language, with `{name}` replaced by `values.name`. Without a translation it stays English.
// A sentence of the server has its values in it already; they are translated too.
export function t(english, values = {}) {
  const text = TABLES[code][english];
  if (text !== undefined) return insert(text, values);
  for (const { expression, translation } of PATTERNS[code]) {
    const found = expression.exec(english);
    if (found) return insert(translation, mapValues(found.groups, (value) => t(value)));
  }
  return insert(english, values);
}

function insert(text, values) {
  return text.replace(NAME, (whole, name) => name in values ? String(values[name]) : whole);
}

function mapValues(object, change) {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]));
}

// Translates the elements below `root` whose words stand in the HTML: the text where there is `data-t`, the aria-label
// where there is `data-t-label`. The attributes keep the English words, so that another language can follow.
export function translate(root) {
  for (const node of root.querySelectorAll("[data-t]")) {
    node.dataset.t ||= node.textContent;
    node.textContent = t(node.dataset.t);
  }
  for (const node of root.querySelectorAll("[data-t-label]")) {
    node.setAttribute("aria-label", t(node.dataset.tLabel));
  }
}

// Keeps a part of the page in the language that is chosen in `settings`. `onChange` writes what `translate` cannot: the
// words that depend on the part's state. It is called at once, and after each change.
export function followLanguage(root, settings, browserLanguages, onChange = () => {}) {
  const follow = () => {
    setLanguage(preferredLanguage(settings.get("language"), browserLanguages));
    translate(root);
    onChange();
  };
  settings.listen((name) => { if (name === "language") follow(); });
  follow();
}
