// The transcript: one element for each utterance, with its settled and its tentative text.
//
// All text goes into the page through textContent, so nothing that is said or recognized can become markup.

import { formatTime } from "./format.js";
import { t } from "./text.js";

// How an utterance is shown: `line` comes from the server (TranscriptLine.to_json), its part began `offset` seconds in.
export function lineView(line, offset) {
  const start = offset + line.start;
  return {
    time: formatTime(start),
    range: `${start.toFixed(2)} s – ${(offset + line.end).toFixed(2)} s`,
    settled: line.error ? t(line.error) : line.settled,
    tentative: line.tentative,
    failed: Boolean(line.error),
    final: line.final,
    empty: line.final && !line.settled && !line.error, // a sound that was no speech
  };
}

// Leaves an element alone that already says so: screen readers and selections notice every change.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export class Transcript {
  #lines = new Map(); // by part, then by the number of the utterance

  // `container` gets the utterances. `announcer` is a live region: it gets each final text once.
  constructor(container, announcer) {
    this.container = container;
    this.announcer = announcer;
  }

  get isEmpty() { return !this.container.querySelector(".utterance"); }

  get hasText() { return Boolean(this.container.querySelector(".utterance:not(.failed)")); }

  // Lines of text, without those that say what failed.
  get text() {
    const utterances = [...this.container.querySelectorAll(".utterance:not(.failed)")];
    return utterances.map((utterance) => utterance.querySelector(".words").textContent).join("\n");
  }

  show(part, line, offset) {
    const view = lineView(line, offset);
    if (!this.#lines.has(part)) this.#lines.set(part, new Map());
    const lines = this.#lines.get(part);
    let item = lines.get(line.number);
    if (!item) {
      if (view.empty) return;
      item = this.#create();
      lines.set(line.number, item);
    }
    const { container } = this;
    const atEnd = container.scrollHeight - container.scrollTop - container.clientHeight < 80;
    setText(item.time, view.time);
    item.time.title = view.range;
    setText(item.settled, view.settled);
    setText(item.tentative, view.tentative);
    item.utterance.classList.toggle("failed", view.failed);
    if (view.empty) item.utterance.remove();
    if (view.final && !item.final) setText(this.announcer, line.settled);
    item.final = view.final;
    item.utterance.dataset.final = view.final;
    if (atEnd) container.scrollTop = container.scrollHeight;
  }

  // Removes the text of a part that is not final: its audio is recognized again.
  removeTentative(part) {
    for (const item of this.#lines.get(part)?.values() || []) if (!item.final) item.utterance.remove();
  }

  // `keepOpen`: the utterance that is being spoken stays.
  clear(keepOpen) {
    for (const utterance of this.container.querySelectorAll(".utterance")) {
      if (!keepOpen || utterance.dataset.final === "true") utterance.remove();
    }
    setText(this.announcer, "");
  }

  #create() {
    const add = (parent, tag, className) => {
      const node = this.container.ownerDocument.createElement(tag);
      node.className = className;
      parent.append(node);
      return node;
    };
    const utterance = add(this.container, "p", "utterance");
    const time = add(utterance, "time", "time");
    const words = add(utterance, "span", "words");
    words.dir = "auto"; // Arabic and Persian run from the right
    return { utterance, time, settled: add(words, "span", "settled"), tentative: add(words, "span", "tentative"), final: false };
  }
}
