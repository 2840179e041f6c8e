// Random numbers that are the same in each run (mulberry32, by Tommy Ettinger, in the public domain).

export class Random {
  #state;

  constructor(seed) { this.#state = seed; }

  // From 0 to below 1.
  next() {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  }

  // An integer from `low` to `high`, both included.
  integer(low, high) { return low + Math.floor(this.next() * (high - low + 1)); }

  chance(probability) { return this.next() < probability; }

  bytes(length) { return Uint8Array.from({ length }, () => this.integer(0, 255)); }
}
