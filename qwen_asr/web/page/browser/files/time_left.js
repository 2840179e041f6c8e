// How long a transcription will still take, from the speed that was measured. Pure.

import { t } from "../shared/text.js";

const WINDOW_MS = 60_000; // the speed is that of the last minute: others may come and go
const LEAST_MS = 6_000;   // a speed that was measured for less says little

export class TimeLeft {
  #samples = []; // [ms, seconds heard], the oldest first
  #shown = null; // minutes

  // `now` in ms; `heard` of `total` seconds. Minutes, rounded up; null while the speed is unknown.
  update(now, heard, total) {
    this.#samples.push([now, heard]);
    while (this.#samples.length > 2 && this.#samples[1][0] <= now - WINDOW_MS) this.#samples.shift();
    const [since, before] = this.#samples[0];
    if (total === null || now - since < LEAST_MS || heard <= before) return this.#shown;
    const speed = (heard - before) / (now - since);
    const minutes = Math.max(1, Math.ceil((total - heard) / speed / 60_000));
    // It falls by itself. It rises only for a good reason, so that it does not go up and down.
    if (this.#shown === null || minutes < this.#shown || minutes > this.#shown * 1.25 + 1) this.#shown = minutes;
    return this.#shown;
  }
}

// `minutes` as `TimeLeft.update` gives them, in words; "" for null.
export function timeLeftText(minutes) {
  if (minutes === null) return "";
  if (minutes <= 1) return t("less than a minute left");
  if (minutes < 60) return t("about {minutes} minutes left", { minutes });
  const hours = Math.round(minutes / 60);
  return hours === 1 ? t("about an hour left") : t("about {hours} hours left", { hours });
}
