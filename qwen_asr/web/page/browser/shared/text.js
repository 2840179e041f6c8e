// The language of the page's own words. English stands in the code, and is the key of every translation.

import { CHINESE } from "./chinese.js";

const TABLES = { en: {}, zh: CHINESE };

let code = "en";

// "en" or "zh": what the user has chosen, else the browser's first language that the page knows.
export function preferredLanguage(chosen, browserLanguages) {
  if (chosen in TABLES) return chosen;
  const known = browserLanguages.map((language) => language.slice(0, 2).toLowerCase()).filter((it) => it in TABLES);
  return known[0] ?? "en";
}

export function setLanguage(chosen) { code = chosen in TABLES ? chosen : "en"; }

export function language() { return code; }

// `english` in the page's language, with `{name}` replaced by `values.name`. Without a translation it stays English.
export function t(english, values = {}) {
  const text = TABLES[code][english] ?? english;
  return text.replace(/\{(\w+)\}/g, (whole, name) => name in values ? String(values[name]) : whole);
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
