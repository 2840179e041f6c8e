// What the user has chosen for the whole page: its language, its theme, the size of the transcripts. It also keeps what
// other scripts read from `Settings`. head_script.py puts this script into the page's head, so that it runs before
// Gradio does and nothing appears in another language or theme first.

import { Settings, browserStorage } from "../shared/settings.js";
import { followLanguage, language, t } from "../shared/text.js";
import { updates } from "./labels.js";
import { followRadioGroups } from "./radio_groups.js";

const LOCALES = { en: "en", zh: "zh-CN" }; // as Gradio names its own translations
const FIELDS = ["spokenLanguage", "context", "model"];

class PageSettings {
  constructor() {
    this.settings = new Settings(browserStorage(), document);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
  }

  start() {
    const { settings } = this;
    this.follow(document.head, () => this.applyLanguage());
    settings.listen((name) => {
      if (name === "theme") this.applyTheme();
      if (name === "fontSize") this.applyFontSize();
    });
    // Gradio asks this property alone for the language of its own words, once, while it starts.
    Object.defineProperty(navigator, "language", { get: () => LOCALES[language()], configurable: true });
    // Tab would go from a drop-down to its list, because Chromium stops at whatever scrolls. Gradio removes the list,
    // and the focus with it.
    document.addEventListener("keydown", ({ key }) => {
      if (key === "Tab") for (const list of document.querySelectorAll("[role=listbox]")) list.tabIndex = -1;
    });
    this.applyFontSize();
    this.applyTheme();
    document.addEventListener("DOMContentLoaded", () => {
      // Gradio sets the class "dark" as the system is, when it starts and when the system changes.
      new MutationObserver(() => this.applyTheme()).observe(document.body, { attributeFilter: ["class"] });
      this.dark.addEventListener("change", () => this.applyTheme());
      this.applyTheme();
    });
  }

  // Keeps the words in the HTML of an element in the page's language. Other scripts do it for their own elements.
  follow(element, onChange) { followLanguage(element, this.settings, navigator.languages, onChange); }

  // Lets the groups of radio buttons in the same tab as `element` work as such.
  followRadioGroups(element) { followRadioGroups(element.closest("[role=tabpanel]")); }

  // The functions from here to the empty line are those that settings_tab.py calls: as events of Gradio's components.

  // Once Gradio has made its components. `fields`: see labels.js; returns an update for each.
  load(fields) {
    this.fields = fields;
    this.applyLanguage();
    return this.updates("changed");
  }

  // Keeps the choice in a component of the tab. Returns what becomes of each component.
  choose(name, value) {
    this.settings.set(name, value === "auto" ? null : value);
    this.showWhetherKept();
    return this.updates("none");
  }

  // `isKept`: whether the fields above the tabs, with these values, are remembered. Forgets them if they are not.
  remember(isKept, ...values) {
    this.settings.set("remember", isKept || null);
    this.keepFields(...values);
  }

  // A page without a choice of models has no value for it.
  keepFields(...values) {
    const isKept = this.settings.get("remember");
    for (const [index, value] of values.entries()) this.settings.set(FIELDS[index], isKept ? value : null);
    this.showWhetherKept();
  }

  reset() {
    for (const { setting } of this.fields) if (setting) this.settings.set(setting, null);
    this.showWhetherKept();
    return this.updates("all");
  }

  updates(values) { return updates(this.fields, this.settings, values); }

  showWhetherKept() { document.documentElement.dataset.settingsKept = this.settings.isKept; }

  applyLanguage() {
    document.documentElement.lang = LOCALES[language()];
    if (this.fields) document.title = t("Qwen3-ASR live"); // before, it is Gradio's to set
  }

  applyTheme() {
    const theme = this.settings.get("theme");
    const isDark = theme === "dark" || (theme !== "light" && this.dark.matches);
    const { documentElement, body } = document;
    documentElement.style.colorScheme = isDark ? "dark" : "light";
    if (body && body.classList.contains("dark") !== isDark) body.classList.toggle("dark", isDark);
  }

  applyFontSize() {
    const size = Number(this.settings.get("fontSize"));
    const { style } = document.documentElement;
    if (size >= 0.5 && size <= 5) style.setProperty("--transcript-size", `${size}rem`);
    else style.removeProperty("--transcript-size");
  }
}

export function start() {
  window.pageSettings = new PageSettings();
  window.pageSettings.start();
}
