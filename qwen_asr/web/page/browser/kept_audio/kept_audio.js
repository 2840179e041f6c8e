// The audio of a transcript's recordings, as the microphone gave it, for a user who wants to keep it.
//
// It lies in the browser, outlives a reload, and goes with the transcript: after Clear it stays until the next Clear or
// reload, because Clear can be undone. All of it goes after a day, and with the user who logs out.
//
// A recording is {id, transcript, owner, order, rate, bytes, at, cleared}: `transcript` is the name of the tab's
// transcript, `owner` the user where there is a login, else "", `at` the time of the last block in ms.

import { formatTime } from "../shared/format.js";
import { t } from "../shared/text.js";
import { MAX_DATA_BYTES, wavHeader } from "./wav.js";

const MAX_SECONDS = 2 * 3600;     // 0.7 GB at 48 kHz
const DAY_MS = 24 * 3600 * 1000;

const full = () => t("The browser's storage is full: the audio is no longer kept. The recording goes on.");
const long = () => t("The page keeps at most {time} of audio: what follows is not kept. The recording goes on.", {
  time: formatTime(MAX_SECONDS),
});
const failed = () => t("The browser cannot keep the audio. The recording goes on.");

const size = (recordings) => recordings.reduce((sum, { bytes, rate }) => sum + bytes / 2 / rate, 0);

export class KeptAudio {
  #kept = [];       // recordings of the transcript, in order
  #cleared = [];    // those that Undo would bring back
  #current = null;  // {recording, blocks, waiting, index}: the one that goes on
  #working = Promise.resolve(); // what the store does happens in order

  problem = "";     // why audio is no longer kept

  // `store`: see audio_store.js. `resample(blob, from, to)`: samples at another rate.
  constructor({ store, transcript, owner, newId, now, resample, onChange = () => {}, maxSeconds = MAX_SECONDS }) {
    Object.assign(this, { store, transcript, owner, newId, now, resample, onChange, maxSeconds });
  }

  // Finds what this transcript had before a reload, and removes what is to be kept no longer.
  async restore() {
    const found = [];
    for (const recording of await this.store.all()) {
      const { id, transcript, owner, at, cleared } = recording;
      const mine = transcript === this.transcript;
      const expired = this.now() - at > DAY_MS;
      if (expired || (mine && (cleared || owner !== this.owner))) await this.store.remove(id);
      else if (mine) found.push(recording);
    }
    this.#kept.unshift(...found.sort((one, other) => one.order - other.order));
    this.onChange();
  }

  // The user logs out: all of their audio goes, also that of other tabs.
  async removeAll() {
    this.#current = null;
    this.#kept = [];
    this.#cleared = [];
    this.#work(async () => {
      for (const { id, owner } of await this.store.all()) if (owner === this.owner) await this.store.remove(id);
    });
    await this.#working;
    this.onChange();
  }

  get hasAudio() { return this.#kept.some(({ bytes }) => bytes > 0); }

  get seconds() { return size(this.#kept); }

  // A recording begins; `push` gives its samples, `end` ends it.
  begin(rate) {
    this.problem = "";
    const { transcript, owner } = this;
    const order = Math.max(0, ...[...this.#kept, ...this.#cleared].map((recording) => recording.order + 1));
    const recording = { id: this.newId(), transcript, owner, order, rate, bytes: 0, at: this.now(), cleared: false };
    this.#current = { recording, blocks: [], waiting: 0, index: 0 };
    this.#kept.push(recording);
  }

  push(bytes) {
    const current = this.#current;
    if (!current) return;
    current.blocks.push(bytes);
    current.waiting += bytes.length;
    if (current.waiting >= 2 * current.recording.rate) this.#write(current);
  }

  end() {
    if (this.#current) this.#write(this.#current);
    this.#current = null;
  }

  // The transcript is cleared. A recording that goes on continues as a new one.
  clear() {
    const { rate } = this.#current?.recording ?? {};
    this.end();
    const gone = this.#cleared;
    this.#cleared = this.#kept;
    this.#kept = [];
    for (const { id } of gone) this.#work(() => this.store.remove(id));
    this.#mark(this.#cleared, true);
    if (rate) this.begin(rate);
  }

  // Clear is undone.
  undo() {
    this.#mark(this.#cleared, false);
    this.#kept.unshift(...this.#cleared);
    this.#cleared = [];
  }

  // All of it as one WAV of one channel of int16, in order, at the rate of the first recording. What was recorded at
  // that rate is in it sample by sample; a recording at another rate is resampled.
  async toWav() {
    if (this.#current) this.#write(this.#current);
    await this.#working;
    const recordings = this.#kept.filter(({ bytes }) => bytes > 0);
    const { rate } = recordings[0];
    const blobs = [];
    for (const recording of recordings) {
      const whole = new Blob(await this.store.read(recording.id)).slice(0, recording.bytes);
      blobs.push(recording.rate === rate ? whole : await this.resample(whole, recording.rate, rate));
    }
    const samples = new Blob(blobs).slice(0, MAX_DATA_BYTES - MAX_DATA_BYTES % 2);
    return new Blob([wavHeader(samples.size, rate), samples], { type: "audio/wav" });
  }

  #write(current) {
    const { recording, blocks, waiting } = current;
    if (!waiting) return;
    Object.assign(current, { blocks: [], waiting: 0 });
    const index = current.index++;
    this.#work(async () => {
      if (current.givenUp) return; // what follows a gap is not kept
      if (this.seconds + waiting / 2 / recording.rate > this.maxSeconds) return this.#giveUp(current, long());
      const stored = { ...recording, bytes: recording.bytes + waiting, at: this.now() };
      try {
        await this.store.append(stored, index, await new Blob(blocks).arrayBuffer());
      } catch (error) {
        console.warn(error);
        return this.#giveUp(current, error?.name === "QuotaExceededError" ? full() : failed());
      }
      Object.assign(recording, stored);
      this.onChange();
    });
  }

  // Does `task` after all earlier ones, whether or not they failed.
  #work(task) { this.#working = this.#working.then(task).catch((error) => console.warn(error)); }

  #giveUp(current, problem) {
    current.givenUp = true;
    if (this.#current === current) this.#current = null;
    this.problem = problem;
    this.onChange();
  }

  // The audio of a transcript that was cleared is not found after a reload.
  #mark(recordings, cleared) {
    for (const recording of recordings) {
      this.#work(async () => {
        recording.cleared = cleared;
        if (recording.bytes) await this.store.put(recording);
      });
    }
    this.#work(async () => this.onChange());
    this.onChange();
  }
}
