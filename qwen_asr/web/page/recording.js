// Bytes to the server, text back: what the server has not acknowledged, or not made final, is kept and sent again.

// Bytes that the server may still need, by their offset in the recording.
class Kept {
  constructor() { this.blocks = []; this.start = 0; this.end = 0; }

  push(bytes) { this.blocks.push(bytes); this.end += bytes.length; }

  forget(before) {
    while (this.blocks.length && this.start + this.blocks[0].length <= before) this.start += this.blocks.shift().length;
  }

  read(from, most) {
    const parts = [];
    let at = this.start, size = 0;
    for (const block of this.blocks) {
      const skip = Math.max(0, from - at);
      at += block.length;
      if (skip >= block.length) continue;
      if (size + block.length - skip > most) break;
      parts.push(block.subarray(skip));
      size += block.length - skip;
    }
    const bytes = new Uint8Array(size);
    size = 0;
    for (const part of parts) { bytes.set(part, size); size += part.length; }
    return bytes;
  }
}

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode.apply(null, bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

const WAIT = 0.15;        // s the server may hold a reply while speech goes on: the blocks wait as long in here
const WAIT_IN_QUEUE = 8;  // s, while the page waits for a place and only its position can change
const WAIT_AT_END = 1;    // s, when nothing more is to be sent
const PATIENCE = 15000;   // ms without a reply after which a block is sent again; offsets make that harmless
const BACK_OFF = [250, 500, 1000, 2000, 4000]; // ms

// One press of Record. The server may lose it (a restart, a long time offline): the recording then goes on in a new part
// on the server, from the first byte whose text is not final yet. So bytes are kept until their text is final.
class Recording {
  constructor(rate, wishes, clockStart) {
    Object.assign(this, { rate, wishes, clockStart });
    this.kept = new Kept();
    this.sent = 0;       // the server has everything before this byte
    this.last = null;    // the length of the recording, once known
    this.failures = 0;
    this.farewell = "";  // the last words of a server that stops
    this.queued = 0;     // its position among those who wait for a place; meanwhile all that is recorded is kept here
    this.lag = 0;
    this.begin(0);
  }

  begin(base) {
    this.part = { id: hex(crypto.getRandomValues(new Uint8Array(16))), base, revision: 0, lines: new Map() };
    this.sent = base;
  }

  push(bytes) {
    this.kept.push(bytes);
    this.wake?.();
  }

  end() {
    this.last = this.kept.end;
    this.wake?.();
  }

  seconds(bytes) { return bytes / 2 / this.rate; }

  get behind() { return this.seconds(this.kept.end - this.sent) + this.lag; }

  get duration() { return this.seconds(this.kept.end); }

  async run() {
    for (;;) {
      const reply = await this.post();
      if (reply.queued) continue;
      if (reply.full) throw new Sentence(reply.full);
      if (reply.gone) this.restart();
      else if (reply.error && reply.received === undefined) throw new Sentence(reply.error);
      else if (this.take(reply)) return reply;
      if (this.last === null && this.sent === this.kept.end) await this.more();
    }
  }

  // Posts the next block until a reply comes, however long that takes.
  async post() {
    for (;;) {
      const { queued } = this;
      const audio = queued ? new Uint8Array(0) : this.kept.read(this.sent, props.block_bytes);
      const all = this.sent + audio.length === this.kept.end;
      const ended = this.last !== null && all;
      const call = server.exchange({
        recording: this.part.id, rate: this.rate, offset: this.sent - this.part.base, audio: base64(audio),
        last: ended ? this.last - this.part.base : null, revision: this.part.revision,
        wait: queued ? WAIT_IN_QUEUE : ended ? WAIT_AT_END : all ? WAIT : 0, queued, ...this.wishes,
      });
      // Gradio's call answers nothing where the network or the server failed.
      const reply = await Promise.race([call, sleep(PATIENCE)]).catch(() => undefined);
      // Full: one that begins is told so; one that has begun, and lost its place with a restart, comes again.
      const full = reply?.full && (this.accepted || queued);
      const failed = !reply || reply.retry || reply.farewell || full;
      this.failures = failed ? this.failures + 1 : 0;
      if (reply) this.farewell = reply.farewell || ""; // stands until a server answers again
      this.waiting = reply?.retry || (full ? reply.full : "") || this.farewell;
      if (reply) this.queued = reply.queued || 0;
      showProgress();
      if (!failed) return reply;
      await this.rest(BACK_OFF[Math.min(this.failures, BACK_OFF.length) - 1]);
    }
  }

  async rest(ms) { // cut short by the browser's word that the network is back
    let back;
    const online = new Promise((resolve) => { back = resolve; addEventListener("online", back, { once: true }); });
    await Promise.race([sleep(ms), online]);
    removeEventListener("online", back);
  }

  async more() { // waits for the next block; asks for text once a second even if none comes
    await Promise.race([new Promise((resolve) => { this.wake = resolve; }), sleep(1000)]);
    this.wake = null;
  }

  take(reply) {
    const { part } = this;
    this.accepted = true;
    if (reply.over && !this.over) {
      this.over = true;
      trouble = reply.over;
      stop();
    }
    this.sent = part.base + reply.received;
    this.lag = reply.lag;
    part.revision = reply.revision;
    for (const line of reply.utterances) showLine(part, line, this.clockStart + this.seconds(part.base));
    // Forgotten only now that the final text, which comes in the same reply, is on the page.
    part.safe = Math.max(part.safe || 0, reply.safe);
    this.kept.forget(part.base + part.safe);
    if (reply.error) throw new Sentence(reply.error);
    return reply.done;
  }

  restart() {
    for (const [, item] of this.part.lines) if (!item.final) item.node.remove();
    this.begin(this.part.base + (this.part.safe || 0));
  }
}
