// What the user has chosen for this page, kept in the browser until it is changed.

const KEY = "qwen-asr.settings";
const CHANGED = "qwen-asr-settings"; // an event of the document: each script of the page has an instance of its own

export class Settings {
  // `storage`: localStorage, or null where the browser forbids it; then the choices last as long as the page.
  constructor(storage, events) {
    Object.assign(this, { storage, events });
    this.isKept = Boolean(storage); // whether the choices outlast the page
    this.values = {};
    try {
      const kept = JSON.parse(storage?.getItem(KEY) ?? "{}");
      if (kept && typeof kept === "object" && !Array.isArray(kept)) this.values = kept;
    } catch { /* written by hand, or by another program: the choices are made anew */ }
    events.addEventListener(CHANGED, ({ detail }) => { this.values = { ...this.values, ...detail }; });
  }

  get(name, otherwise = null) { return this.values[name] ?? otherwise; }

  set(name, value) {
    this.events.dispatchEvent(new CustomEvent(CHANGED, { detail: { [name]: value } }));
    try {
      this.storage?.setItem(KEY, JSON.stringify(this.values));
    } catch { // the storage is full or forbidden: the choice lasts as long as the page
      this.isKept = false;
    }
  }

  // `callback(name, value)` is called for each change, from whichever script of the page.
  listen(callback) {
    this.events.addEventListener(CHANGED, ({ detail }) => {
      for (const [name, value] of Object.entries(detail)) callback(name, value);
    });
  }
}

// The browser's storage, or null where it is forbidden: even reading the name throws there.
export function browserStorage() {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}
