// "Microphone" in the Live tab: which one, what the browser does to its sound, whether it is kept, and how loud it is.

import { formatTime } from "../shared/format.js";
import { t } from "../shared/text.js";
import { setText } from "../shared/transcript.js";
import { FLOOR_DB, LevelMeter } from "./level.js";
import { DEFAULTS, audioConstraints, chosenMicrophone, microphones } from "./microphone_choice.js";

const KEEP_AUDIO = "keepAudio";

export class MicrophonePanel {
  #meter = new LevelMeter();
  #list = [];
  #fellBack = ""; // the name of the chosen microphone, where another had to be opened

  // `element`: the component's. `settings`: what the user has chosen for the page.
  constructor(element, settings) {
    Object.assign(this, { element, settings });
  }

  find(selector) { return this.element.querySelector(selector); }

  start() {
    const select = this.find("#microphone-device");
    select.addEventListener("change", () => {
      const { value } = select;
      this.settings.set("microphoneLabel", this.#list.find(({ id }) => id === value)?.label ?? "");
      this.settings.set("microphoneId", value);
    });
    for (const box of this.element.querySelectorAll("input[data-option]")) {
      box.addEventListener("change", () => this.settings.set(box.dataset.option, box.checked));
    }
    this.settings.listen(() => this.refresh());
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.update());
    this.find("#microphone-options").addEventListener("toggle", ({ target }) => {
      this.find(".choices").hidden = !target.open; // some screen readers list what is in a closed one
      this.update();
    });
    this.update();
  }

  get keepsAudio() { return this.settings.get(KEEP_AUDIO, false); }

  get #wanted() {
    return { id: this.settings.get("microphoneId", ""), label: this.settings.get("microphoneLabel", "") };
  }

  // What to ask the browser for at the next Record.
  constraints() {
    const wanted = this.#wanted;
    return audioConstraints(wanted.id && (chosenMicrophone(this.#list, wanted)?.id ?? wanted.id), this.settings);
  }

  // The microphone is open: the browser now tells the names of all.
  opened({ fellBack }) {
    this.#fellBack = fellBack ? this.#wanted.label : "";
    return this.update();
  }

  // Asks the browser which microphones there are now.
  async update() {
    try {
      this.#list = microphones(await navigator.mediaDevices.enumerateDevices());
    } catch { // an insecure page has none
      this.#list = [];
    }
    this.refresh();
  }

  refresh() {
    const select = this.find("#microphone-device");
    const wanted = this.#wanted;
    const chosen = wanted.id ? chosenMicrophone(this.#list, wanted) : null;
    const named = this.#list.filter(({ label }) => label);
    const gone = Boolean(wanted.id) && !chosen && named.length > 0;
    const items = [{ id: "", label: t("The browser's default") }, ...named];
    if (wanted.id && !chosen) items.push({ id: wanted.id, label: wanted.label || t("The chosen microphone") });
    if (JSON.stringify(items) !== select.dataset.items) {
      select.dataset.items = JSON.stringify(items);
      select.replaceChildren(...items.map(({ id, label }) => new Option(label, id)));
    }
    select.value = chosen?.id ?? wanted.id;
    for (const box of this.element.querySelectorAll("input[data-option]")) {
      box.checked = this.settings.get(box.dataset.option, DEFAULTS[box.dataset.option] ?? false);
    }
    setText(this.find("#microphone-note"), this.#note(gone, named.length, wanted.label));
  }

  #note(gone, count, label) {
    const name = this.#fellBack || (gone ? label : "");
    if (name) return t("“{name}” is not connected: the browser's default is used.", { name });
    if (gone || this.#fellBack) return t("The chosen microphone is not connected: the browser's default is used.");
    return count ? "" : t("The names of the microphones appear here after the first recording.");
  }

  // A block of samples came.
  take(bytes, now) {
    this.#meter.take(bytes, now);
    const { level, peak } = this.#meter;
    const bar = this.find("#level");
    bar.style.setProperty("--rms", (1 - level / FLOOR_DB).toFixed(3));
    bar.style.setProperty("--peak", (1 - peak / FLOOR_DB).toFixed(3));
    const decibels = Math.round(level);
    if (bar.getAttribute("aria-valuenow") === String(decibels)) return;
    bar.setAttribute("aria-valuenow", decibels);
    bar.setAttribute("aria-valuetext", t("{level} dB", { level: decibels }));
  }

  // `open`: whether the microphone gives sound now.
  showLevel(open, now) {
    this.find(".meter").hidden = !open;
    if (!open) return;
    const words = {
      clipped: t("Too loud: move away from the microphone."),
      heard: t("The microphone hears you."),
      quiet: t("It is quiet."),
    };
    setText(this.find("#heard"), words[this.#meter.state(now)]);
  }

  // A recording begins.
  resetLevel() { this.#meter = new LevelMeter(); }

  showKept(audio) {
    const time = formatTime(audio?.seconds ?? 0);
    const says = audio?.store.lasting
      ? t("Kept in this browser: {time}.", { time })
      : t("Kept until this page is closed: {time}. This browser allows no storage.", { time });
    setText(this.find("#kept"), audio?.hasAudio ? says : "");
  }
}
