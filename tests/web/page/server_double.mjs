// A server that takes recordings as qwen_asr/web/page/recordings.py does, over a network that loses and repeats.

const FULL = "The server is full.";

export class ServerDouble {
  constructor(random) {
    this.random = random;
    this.parts = new Map();     // id → {bytes, safe, ended, revision}
    this.forgotten = new Map(); // the same, of those that it no longer knows
    this.queue = 0;             // the position of the next recording that is opened
    this.full = false;
    this.stopping = false;
  }

  // A restart, or recordings that were closed as idle.
  forget() {
    for (const [id, part] of this.parts) this.forgotten.set(id, part);
    this.parts.clear();
    this.stopping = false;
  }

  // The bytes that it has, or had, of a part.
  bytesOf(id) { return (this.parts.get(id) || this.forgotten.get(id))?.bytes || []; }

  exchange(message) {
    const { recording, offset, last, revision } = message;
    let part = this.parts.get(recording);
    if (!part) {
      if (offset > 0) return { gone: true };
      if (this.stopping) return { retry: "The server is shutting down." };
      if (this.full) return { full: FULL };
      if (this.queue > 0) return { queued: this.queue-- };
      part = { bytes: [], safe: 0, ended: false, revision: 0 };
      this.parts.set(recording, part);
    }
    const audio = Buffer.from(message.audio, "base64");
    const known = part.bytes.length - offset;
    if (known >= 0 && !part.ended) part.bytes.push(...audio.subarray(known));
    if (last !== null && part.bytes.length >= last) part.ended = true;
    if (this.stopping) return { farewell: "The server is restarting." };
    // Text becomes final up to somewhere before the end, and all of it when the recording has ended.
    if (part.ended) part.safe = part.bytes.length;
    else if (this.random.chance(0.4)) part.safe = this.random.integer(part.safe / 2, part.bytes.length / 2) * 2;
    part.revision = revision + 1;
    return {
      received: part.bytes.length, safe: part.safe, revision: part.revision, utterances: [], lag: 0, seconds: 0,
      done: part.ended, error: null, over: null,
    };
  }
}
