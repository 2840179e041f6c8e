// The transcript in the page: one element for each line, with its settled and its tentative text.
//
// All text goes into the page through textContent, so nothing that is said, recognized or typed can become markup.
// Settled text is added to, and otherwise left alone: a selection in it stays, and nothing in it moves.

import { formatTime } from "./format.js";
import { t } from "./text.js";
import { TranscriptModel } from "./transcript_model.js";

// Leaves an element alone that already says so: screen readers and selections notice every change.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// The same, where the text mostly grows: what is there is not touched.
function growText(node, text) {
  const shown = node.textContent;
  if (shown && text.startsWith(shown)) node.append(...text.length > shown.length ? [text.slice(shown.length)] : []);
  else setText(node, text);
}

export class Transcript {
  #items = new Map(); // by the line's id

  // `container` gets the lines. `announcer` is a live region: it gets each final text once. `onChange(lines, gone)`:
  // these lines are new or have changed, and those are gone. `editable`: final lines have a button to edit them.
  constructor(container, announcer, { onChange = () => {}, editable = false } = {}) {
    Object.assign(this, { container, announcer, onChange, editable });
    this.model = new TranscriptModel();
  }

  get isEmpty() { return this.model.isEmpty; }

  get hasText() { return this.model.hasText; }

  get text() { return this.model.text; }

  // `utterance` comes from the server (TranscriptLine.to_json); its part began `offset` seconds in.
  show(part, utterance, offset) {
    const line = this.model.update(part, utterance, offset);
    if (!line) return;
    if (!this.model.get(line.id)) {
      this.#drop([line]);
      return;
    }
    const { container } = this;
    const atEnd = container.scrollHeight - container.scrollTop - container.clientHeight < 80;
    const wasFinal = this.#items.get(line.id)?.final;
    this.#render(line);
    if (line.final && !wasFinal && !line.failed) setText(this.announcer, line.settled);
    if (atEnd) container.scrollTop = container.scrollHeight;
    this.onChange([line], []);
  }

  // Removes the text of a part that is not final: its audio is recognized again.
  removeTentative(part) { this.#drop(this.model.removeTentative(part)); }

  // `keepOpen`: the utterance that is being spoken stays.
  clear(keepOpen) {
    this.#drop(this.model.clear(keepOpen));
    setText(this.announcer, "");
  }

  // Brings back what was removed last.
  undo() {
    const lines = this.model.undo();
    let next = null; // the element before which a line belongs
    for (const line of this.model.lines.reverse()) {
      if (!this.#items.has(line.id)) this.#render(line, next);
      next = this.#items.get(line.id).utterance;
    }
    this.onChange(lines, []);
  }

  // Gives a line the user's text; without text it is removed.
  edit(id, text) {
    const line = this.model.get(id);
    if (!this.model.edit(id, text)) return;
    if (!this.model.get(id)) {
      this.#drop([line]);
      return;
    }
    this.#render(line);
    this.onChange([line], []);
  }

  // Shows the lines of an earlier page.
  restore(lines) {
    this.model.restore(lines);
    for (const line of this.model.lines) this.#render(line);
    this.container.scrollTop = this.container.scrollHeight;
  }

  #drop(lines) {
    for (const line of lines) {
      this.#items.get(line.id)?.utterance.remove();
      this.#items.delete(line.id);
    }
    if (lines.length) this.onChange([], lines);
  }

  // After a change of the page's language.
  translate() {
    for (const line of this.model.lines) {
      const item = this.#items.get(line.id);
      item.changes = [];
      this.#render(line);
      this.#name(item, line);
    }
  }

  #render(line, next = null) {
    if (!this.#items.has(line.id)) this.#items.set(line.id, this.#create(line, next));
    const item = this.#items.get(line.id);
    const { utterance } = item;
    setText(item.time, formatTime(line.start));
    item.time.title = `${line.start.toFixed(2)} s – ${line.end.toFixed(2)} s`;
    if (line.changes.length || item.changes.length) this.#renderChanges(item, line);
    else growText(item.settled, line.failed ? t(line.settled) : line.settled);
    setText(item.tentative, line.tentative);
    utterance.classList.toggle("failed", line.failed);
    utterance.classList.toggle("edited", line.edited);
    utterance.dataset.final = item.final = line.final;
    const mark = line.edited ? t("edited") : line.changes.length ? t("corrected") : "";
    setText(item.mark, mark);
    item.mark.hidden = !mark;
    if (item.edit) item.edit.hidden = !line.final || line.failed;
  }

  // The words that a final took back are marked, and say what stood there.
  #renderChanges(item, { settled, changes }) {
    if (item.changes === changes && item.settled.textContent === settled) return;
    item.changes = changes;
    item.settled.textContent = "";
    let shown = 0;
    for (const [from, to, before] of changes) {
      item.settled.append(settled.slice(shown, from));
      const word = this.#add(item.settled, "mark", "corrected");
      word.textContent = settled.slice(from, to);
      word.title = before ? t("Corrected. Before: {before}", { before }) : t("Corrected. This was not there before.");
      shown = to;
    }
    item.settled.append(settled.slice(shown));
  }

  // Before `next`, or at the end.
  #add(parent, tag, className, next = null) {
    const node = this.container.ownerDocument.createElement(tag);
    node.className = className;
    parent.insertBefore(node, next);
    return node;
  }

  #create(line, next) {
    const utterance = this.#add(this.container, "p", "utterance", next);
    utterance.dataset.id = line.id;
    const time = this.#add(utterance, "time", "time");
    const words = this.#add(utterance, "span", "words");
    words.dir = "auto"; // Arabic and Persian run from the right
    const [settled, tentative] = ["settled", "tentative"].map((name) => this.#add(words, "span", name));
    let edit = null;
    if (this.editable) {
      edit = this.#add(utterance, "button", "edit");
      edit.type = "button";
      edit.textContent = "✎";
    }
    const mark = this.#add(utterance, "span", "mark");
    const item = { utterance, time, settled, tentative, edit, mark, changes: [], final: false };
    this.#name(item, line);
    return item;
  }

  #name({ edit }, line) {
    if (!edit) return;
    edit.title = t("Edit");
    edit.ariaLabel = t("Edit the line at {time}", { time: formatTime(line.start) });
  }
}
