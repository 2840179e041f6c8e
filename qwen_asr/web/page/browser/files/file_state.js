// A file of the File tab: what becomes of it, from its place in the list to its text. Pure.

import { formatTime } from "../shared/format.js";
import { t } from "../shared/text.js";
import { TimeLeft, timeLeftText } from "./time_left.js";

// The states of a file, in their usual order. The last three are its ends.
export const WAITING = "waiting";
export const FETCHING = "fetching";
export const UPLOADING = "uploading";
export const QUEUED = "queued";
export const TRANSCRIBING = "transcribing";
export const DONE = "done";
export const FAILED = "failed";
export const CANCELLED = "cancelled";
const ENDS = [DONE, FAILED, CANCELLED];

// 1234567 → "1.2 MB"
export function formatSize(bytes) {
  const units = ["B", "kB", "MB", "GB"];
  let value = bytes;
  while (value >= 1000 && units.length > 1) {
    value /= 1000;
    units.shift();
  }
  return `${units[0] === "B" || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[0]}`;
}

// The lines of a text that is made again: the new ones, and the earlier ones behind them, so that no text is lost if
// this attempt fails too.
export function mergedLines(earlier, fresh) {
  const end = fresh.length ? fresh[fresh.length - 1].end : 0;
  return [...fresh, ...earlier.filter((line) => line.start >= end)];
}

export class FileState {
  state = WAITING;
  error = "";
  lines = [];       // {number, start, end, text, language, words: [[text, start, end], …]}
  #earlier = [];    // those of the attempt before
  #fresh = [];      // those of this one
  #timeLeft = null;

  // `file` is a File, or null as long as only its `url` is known.
  constructor({ id, name, file = null, url = null }) { Object.assign(this, { id, name, file, url }); }

  get ended() { return ENDS.includes(this.state); }

  get active() { return !this.ended && this.state !== WAITING; }

  // Fetching from a link has begun, or goes on. `total` in bytes, or null.
  fetching(loaded, total) { this.#move(FETCHING, { loaded, total }); }

  fetched(file) {
    this.file = file;
    this.name = file.name;
  }

  uploading(loaded, total) {
    if (this.state === QUEUED || this.state === TRANSCRIBING) return; // a late report
    this.#move(UPLOADING, { loaded, total });
  }

  // An event of the server (page/files/route.py), at `now` in ms.
  take(event, now) {
    if (this.ended) return;
    if ("queued" in event) this.#move(QUEUED, { position: event.queued });
    if ("heard" in event) {
      const [heard, stated] = event.heard;
      const total = stated !== null && stated >= heard ? stated : null; // a wrong duration is none
      this.#timeLeft ??= new TimeLeft();
      this.#move(TRANSCRIBING, { heard, total, left: this.#timeLeft.update(now, heard, total) });
    }
    if ("line" in event) {
      this.#fresh.push(event.line);
      this.lines = mergedLines(this.#earlier, this.#fresh);
    }
    if ("done" in event) {
      this.lines = this.#fresh;
      this.#move(DONE, { seconds: event.done });
    }
    if ("error" in event) this.fail(event.error);
  }

  fail(message) {
    if (this.ended) return;
    this.error = message;
    this.#move(FAILED);
  }

  cancel() { if (!this.ended) this.#move(CANCELLED); }

  // Once more, from the beginning. The text so far stays until the new one has got as far.
  retry() {
    this.error = "";
    this.#earlier = this.lines;
    this.#fresh = [];
    this.#timeLeft = null;
    this.#move(WAITING);
  }

  #move(state, progress = {}) {
    this.state = state;
    this.progress = progress;
  }

  // How much is done, from 0 to 1; null while that is unknown.
  get fraction() {
    if (this.state === DONE) return 1;
    const { heard, loaded, total } = this.progress ?? {};
    return total ? Math.min(1, (heard ?? loaded) / total) : null;
  }

  // What the page says about the file now.
  get text() {
    const { loaded, total, position, heard, left, seconds } = this.progress ?? {};
    switch (this.state) {
      case WAITING: return t("Waiting for the files before it");
      case FETCHING: return total
        ? t("Fetching: {done} of {total}", { done: formatSize(loaded), total: formatSize(total) })
        : t("Fetching: {done}", { done: formatSize(loaded) });
      case UPLOADING: return t("Uploading: {percent} %", { percent: total ? Math.floor(loaded / total * 100) : 0 });
      case QUEUED: return position === 1 ? t("Waiting: you are next") : t("Waiting: {count} before you", { count: position - 1 });
      case TRANSCRIBING: {
        if (total === null) return t("Transcribing: {done} so far; the file does not say how long it is", { done: formatTime(heard) });
        const words = timeLeftText(left);
        const done = t("Transcribing: {done} of {total}", { done: formatTime(heard), total: formatTime(total) });
        return words ? `${done}, ${words}` : done;
      }
      case DONE: return this.lines.length
        ? t("Done: {seconds} of audio", { seconds: formatTime(seconds) })
        : t("Done: no speech was found in {seconds} of audio", { seconds: formatTime(seconds) });
      case CANCELLED: return t("Cancelled");
      default: return t(this.error); // a sentence of the server
    }
  }
}

// The files of the page, in the order in which they came. One at a time is worked on.
export class FileList {
  items = [];

  get active() { return this.items.find((item) => item.active) ?? null; }

  // The file whose turn it is; null if there is none, or another is worked on.
  get next() { return this.active ? null : this.items.find((item) => item.state === WAITING) ?? null; }

  get busy() { return this.items.some((item) => !item.ended); }

  add(item) { this.items.push(item); }

  remove(item) { this.items = this.items.filter((other) => other !== item); }

  // Removes those that have ended, and returns them.
  clearEnded() {
    const ended = this.items.filter((item) => item.ended);
    this.items = this.items.filter((item) => !item.ended);
    return ended;
  }
}
