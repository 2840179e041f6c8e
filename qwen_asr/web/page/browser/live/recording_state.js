// The state of one recording: which bytes the server has, which message comes next, what a reply changes.
//
// Pure: no timer, no network, no DOM. recording.js drives it, docs/architecture.md has its state diagram, and
// microphone.py describes the messages.
//
// The server may lose a recording (a restart, a long time offline). The recording then continues in a new part on the
// server, from the first byte whose text is not final. Bytes are therefore kept until their text is final.

import { ByteQueue, toBase64 } from "./byte_queue.js";
import { OptionChanges } from "./option_changes.js";
import { UserError } from "../shared/errors.js";
import { t } from "../shared/text.js";

const BYTES_PER_SAMPLE = 2;

// How long the server may hold back a reply that has no news, in seconds.
const HOLD_LISTENING = 0.15; // new blocks wait in the page meanwhile
const HOLD_QUEUED = 8;       // only the position can change
const HOLD_ENDED = 1;        // nothing is left to send

export class RecordingState {
  // `options` are language, context and pause at the beginning. `newId()` names a part. `onLines(part, lines)` shows
  // text; `onPartLost(part)` removes the text of a part that is not final; `onTimeLimit(message)` stops the microphone.
  constructor({ rate, options, maxBlockBytes, newId, onLines, onPartLost, onTimeLimit }) {
    Object.assign(this, { rate, maxBlockBytes, newId, onLines, onPartLost, onTimeLimit });
    this.options = new OptionChanges(options);
    this.queue = new ByteQueue();
    this.total = null;          // the length of the recording in bytes, once it has ended
    this.accepted = false;      // whether the server has ever opened it
    this.failures = 0;          // in a row
    this.reason = "";           // why the last message failed, where the server said so
    this.shutdownNotice = "";   // the last message of a server that shuts down, until a server answers again
    this.position = 0;          // in the queue of the server; audio is kept here meanwhile
    this.lag = 0;               // seconds of audio that the server has, but not as text
    this.timeLimitReached = false;
    this.remaining = null;      // seconds until the server's time limit, where it has one
    this.speed = null;          // see status.js
    this.unavailable = "";      // why no text can come now
    this.begin(0);
  }

  // Starts a new part on the server at the offset `base`.
  begin(base) {
    this.part = { id: this.newId(), base, startSeconds: this.seconds(base), revision: 0, safe: 0 };
    this.acknowledged = base; // the server has everything before this byte
  }

  push(bytes) { this.queue.push(bytes); }

  end() { this.total = this.queue.end; }

  // "listening", "queued", "reconnecting" or "finishing".
  get phase() {
    if (this.failures) return "reconnecting";
    if (this.position) return "queued";
    return this.total === null ? "listening" : "finishing";
  }

  get caughtUp() { return this.acknowledged === this.queue.end; }

  seconds(bytes) { return bytes / BYTES_PER_SAMPLE / this.rate; }

  get duration() { return this.seconds(this.queue.end); }

  // Seconds of audio that the server does not have yet.
  get backlog() { return this.seconds(this.queue.end - this.acknowledged); }

  // Seconds between what was said last and the text.
  get behind() { return this.backlog + this.lag; }

  nextMessage() {
    const { part, position } = this;
    const { options, until } = this.options.at(this.acknowledged);
    const maxBytes = Math.min(this.maxBlockBytes, until - this.acknowledged);
    const audio = position ? new Uint8Array(0) : this.queue.read(this.acknowledged, maxBytes);
    const isLast = this.acknowledged + audio.length === this.queue.end;
    const ended = this.total !== null && isLast;
    let wait = 0; // more audio is here to be sent
    if (position) wait = HOLD_QUEUED;
    else if (ended) wait = HOLD_ENDED;
    else if (isLast) wait = HOLD_LISTENING;
    return {
      recording: part.id, rate: this.rate, offset: this.acknowledged - part.base, audio: toBase64(audio),
      last: ended ? this.total - part.base : null, revision: part.revision, wait, queued: position, ...options,
    };
  }

  // Takes the reply to the last message, undefined where none came. Returns what to do next: "retry" (after a pause),
  // "queued" or "continue" (send the next message), "done". Throws UserError where the recording cannot go on.
  apply(reply) {
    // A full server refuses a recording that begins. One that has begun, and lost its slot in a restart, tries again.
    const full = reply?.full && (this.accepted || this.position) ? reply.full : "";
    const failed = !reply || reply.retry || reply.farewell || full;
    this.failures = failed ? this.failures + 1 : 0;
    if (reply) {
      this.shutdownNotice = reply.farewell || "";
      this.position = reply.queued || 0;
    }
    this.reason = reply?.retry || full || this.shutdownNotice;
    if (failed) return "retry";
    if (reply.queued) return "queued";
    if (reply.full) throw new UserError(reply.full);
    if (reply.gone) {
      this.restart();
      return "continue";
    }
    if (reply.error && reply.received === undefined) throw new UserError(reply.error);
    return this.take(reply) ? "done" : "continue";
  }

  // Takes a reply with text. Returns whether the recording is done.
  take(reply) {
    const { part } = this;
    this.accepted = true;
    if (reply.over && this.total === null && !this.timeLimitReached) { // not one that the user has ended
      this.timeLimitReached = true;
      this.onTimeLimit(reply.over);
    }
    this.acknowledged = part.base + reply.received;
    this.lag = reply.lag;
    this.remaining = reply.remaining ?? null;
    this.speed = reply.speed ?? null;
    this.unavailable = reply.unavailable ?? "";
    this.options.take(reply);
    part.revision = reply.revision;
    this.onLines(part, reply.utterances);
    // Only after the final text, which comes in the same reply, is on the page.
    part.safe = Math.max(part.safe, reply.safe);
    this.queue.discard(part.base + part.safe);
    if (reply.error) throw new UserError(reply.error);
    return reply.done;
  }

  restart() {
    this.onPartLost(this.part);
    this.options.restart();
    this.begin(this.part.base + this.part.safe);
  }
}

const FIRST_SOUND_MS = 10000; // from the press of its button to the first block; a slow device takes seconds

// A recording of Gradio's own recorder, which sends its audio itself and without an id. Only the text is fetched here.
export class FallbackState extends RecordingState {
  // `id` is the id that the server gives such a recording; `now()` gives milliseconds.
  constructor({ id, now, ...rest }) {
    super({ rate: 16000, options: {}, maxBlockBytes: 0, newId: () => id, ...rest });
    this.now = now;
    this.startedAt = now();
    this.heardSeconds = 0;
    this.seen = false; // whether the server has a recording that is not the one before this
  }

  get duration() { return this.heardSeconds; }

  get behind() { return this.lag; }

  take(reply) {
    if (reply.done && !reply.error && this.total === null) { // the recording before this one, until new audio comes
      this.restart();
      return false;
    }
    this.seen = true;
    this.heardSeconds = reply.seconds;
    const done = super.take(reply);
    this.acknowledged = 0; // nothing is sent from here
    return done;
  }

  // The server has no audio yet, or has lost the recording.
  restart() {
    if (this.seen) throw new UserError(t("The server lost this recording. Its text stays; record again to continue."));
    if (this.total !== null) throw new UserError(t("No sound came from the simple recorder. Try another browser."));
    if (this.now() - this.startedAt > FIRST_SOUND_MS) {
      throw new UserError(
        t("No sound came from the simple recorder. Stop it there, allow the microphone, and record again."),
      );
    }
  }
}
