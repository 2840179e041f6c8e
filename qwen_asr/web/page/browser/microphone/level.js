// How loud the microphone is, in decibels below the loudest that it can give (dBFS). Pure.

export const FLOOR_DB = -60;   // below it there is nothing to see
export const HEARD_DB = -45;   // speech at arm's length is above it, a quiet room below
export const CLIPPED_DB = -0.5;

const FALL_DB_PER_SECOND = 30; // the bar rises at once and falls slowly, so that the eye can follow
const HEARD_MS = 2000;         // a pause between two words

export const decibels = (amplitude) => Math.max(FLOOR_DB, 20 * Math.log10(Math.max(amplitude, 1e-9)));

// The peak and the root mean square of a block of int16, from 0 to 1.
export function loudness(bytes) {
  const samples = new Int16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  let peak = 0;
  let sum = 0;
  for (const sample of samples) {
    peak = Math.max(peak, Math.abs(sample));
    sum += sample * sample;
  }
  return { peak: peak / 32768, rms: Math.sqrt(sum / Math.max(1, samples.length)) / 32768 };
}

export class LevelMeter {
  #at = 0;
  #heardAt = -Infinity;
  #clippedAt = -Infinity;

  level = FLOOR_DB; // the root mean square, falling slowly
  peak = FLOOR_DB;

  // `now` is in milliseconds.
  take(bytes, now) {
    const { peak, rms } = loudness(bytes);
    const fallen = FALL_DB_PER_SECOND * (now - this.#at) / 1000;
    this.level = Math.max(decibels(rms), FLOOR_DB, this.level - fallen);
    this.peak = Math.max(decibels(peak), FLOOR_DB, this.peak - fallen);
    this.#at = now;
    if (decibels(rms) >= HEARD_DB) this.#heardAt = now;
    if (decibels(peak) >= CLIPPED_DB) this.#clippedAt = now;
  }

  // "clipped", "heard" or "quiet".
  state(now) {
    if (now - this.#clippedAt < HEARD_MS) return "clipped";
    return now - this.#heardAt < HEARD_MS ? "heard" : "quiet";
  }
}
