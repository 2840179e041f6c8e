// The transcript as data: its lines, in the order in which they were spoken. Pure.
//
// A line has
//   id         a number that grows from line to line
//   start, end seconds in the whole transcript
//   settled    text that stays; of a line that failed, what went wrong
//   tentative  text that may still change
//   language   its English name, or null
//   words      [[text, start, end], …], in seconds in the whole transcript; none where they are not known
//   final      nothing comes any more but words
//   failed     it could not be transcribed
//   edited     by the user: from then on nothing of the server's changes it
//   changes    [[from, to, before], …]: the final put settled.slice(from, to) where `before` was shown as settled

import { corrections } from "./corrections.js";

const inThousandths = (seconds) => Math.round(seconds * 1000) / 1000;

export class TranscriptModel {
  #lines = new Map();      // by id, in order
  #byPart = new WeakMap(); // part of a recording → number of the utterance → line
  #removed = [];           // what `undo` brings back
  #wasCleared = false;     // whether `clear` has removed it
  #nextId = 1;

  get lines() { return [...this.#lines.values()]; }

  get isEmpty() { return this.#lines.size === 0; }

  get hasText() { return this.lines.some((line) => !line.failed); }

  get canUndo() { return this.#removed.length > 0; }

  // Lines of text, without those that say what failed.
  get text() {
    return this.lines.filter((line) => !line.failed).map((line) => line.settled + line.tentative).join("\n");
  }

  // Whether `undo` brings back what `clear` has removed, not a line that was edited away.
  get undoesClear() { return this.canUndo && this.#wasCleared; }

  get(id) { return this.#lines.get(id); }

  // Takes an utterance as the server has it (TranscriptLine.to_json) of a part of a recording that began `offset`
  // seconds in. Returns its line, or null where nothing of the transcript has changed. A line that is not there any
  // more was a sound without speech.
  update(part, utterance, offset) {
    if (!this.#byPart.has(part)) this.#byPart.set(part, new Map());
    const lines = this.#byPart.get(part);
    const known = lines.get(utterance.number);
    if (known?.edited) return null;
    if (utterance.final && !utterance.settled && !utterance.error) { // a sound that was no speech
      if (!known) return null;
      lines.delete(utterance.number);
      this.#removed = this.#removed.filter((line) => line !== known);
      return this.#lines.delete(known.id) ? known : null;
    }
    const line = known ?? { id: this.#nextId++, edited: false, changes: [] };
    if (known && !known.final && utterance.final && !utterance.error && !utterance.settled.startsWith(known.settled)) {
      line.changes = corrections(known.settled, utterance.settled);
    }
    Object.assign(line, {
      start: inThousandths(offset + utterance.start), end: inThousandths(offset + utterance.end),
      settled: utterance.error || utterance.settled, tentative: utterance.tentative,
      language: utterance.language ?? null,
      words: (utterance.words ?? []).map(([text, start, end]) => (
        [text, inThousandths(offset + start), inThousandths(offset + end)])),
      final: utterance.final, failed: Boolean(utterance.error),
    });
    if (!known) {
      lines.set(utterance.number, line);
      this.#lines.set(line.id, line);
    }
    return this.#lines.has(line.id) ? line : null; // not one that was cleared
  }

  // Removes the lines of a part that are not final, because its audio is recognized again. Returns them.
  removeTentative(part) {
    const open = [...this.#byPart.get(part)?.values() ?? []].filter((line) => !line.final);
    this.#removed = this.#removed.filter((line) => !open.includes(line));
    return open.filter((line) => this.#lines.delete(line.id));
  }

  // Gives a final line the user's text. Returns whether it differs. Without text the line is removed, and `undo` brings
  // it back.
  edit(id, text) {
    const line = this.#lines.get(id);
    const written = text.replace(/\s+/gu, " ").trim();
    if (!line?.final || line.failed || written === line.settled.trim()) return false;
    if (!written) this.#remove([line]);
    // The times of words belong to the words that were spoken.
    else Object.assign(line, { settled: written, words: [], changes: [], edited: true });
    return true;
  }

  // Removes all lines, but with `keepOpen` those that are not final. Returns them.
  clear(keepOpen) { return this.#remove(this.lines.filter((line) => !keepOpen || line.final), true); }

  #remove(lines, wasCleared = false) {
    for (const line of lines) this.#lines.delete(line.id);
    if (lines.length) [this.#removed, this.#wasCleared] = [lines, wasCleared];
    return lines;
  }

  // Brings back what was removed last, in its order. Returns it.
  undo() {
    const removed = this.#removed;
    this.#removed = [];
    const all = [...this.#lines.values(), ...removed].sort((a, b) => a.id - b.id);
    this.#lines = new Map(all.map((line) => [line.id, line]));
    return removed;
  }

  // Nothing can be brought back any more.
  forgetRemoved() { this.#removed = []; }

  // Takes the lines of an earlier page, before any others. Nothing more comes from the server for them, so the text of
  // each is settled as it is.
  restore(lines) {
    for (const line of [...lines].sort((a, b) => a.id - b.id)) {
      const settled = line.settled + line.tentative;
      this.#lines.set(line.id, { ...line, settled, tentative: "", final: true });
      this.#nextId = Math.max(this.#nextId, line.id + 1);
    }
  }
}
