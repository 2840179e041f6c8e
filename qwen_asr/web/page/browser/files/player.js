// The player of a file and its text: what is heard is marked, and a click or a key on a word plays from there.
//
// All text goes into the page through textContent, so nothing that is said or recognized can become markup.

import { formatTime } from "../shared/format.js";
import { t } from "../shared/text.js";
import { heardAt, pieces } from "./position.js";

const USER_SCROLLS_MS = 4000; // so long after the user has scrolled, the text does not scroll by itself

export class Player {
  #shown = [];          // the lines that are shown
  #rows = [];           // their elements: {line, words}
  #marked = [];         // the elements that are marked now
  #scrolledAt = -USER_SCROLLS_MS;
  #frame = 0;

  // `media` gets the <audio> or <video>, `text` the lines, `note` what is wrong with the sound.
  constructor({ media, text, note }) {
    Object.assign(this, { container: media, text, note });
    text.addEventListener("click", (event) => this.#playFrom(event.target));
    text.addEventListener("keydown", (event) => this.#key(event));
    for (const kind of ["wheel", "touchmove", "pointerdown"]) {
      text.addEventListener(kind, () => { this.#scrolledAt = performance.now(); }, { passive: true });
    }
  }

  // Has the file played. Called once, when it is here.
  load(file) {
    if (this.media) return;
    this.media = document.createElement(file.type.startsWith("audio/") ? "audio" : "video");
    this.address = URL.createObjectURL(file);
    Object.assign(this.media, { controls: true, preload: "metadata", playsInline: true, src: this.address });
    this.fileName = file.name;
    this.media.classList.add("sound");
    this.media.addEventListener("loadedmetadata", () => {
      this.media.classList.toggle("sound", !this.media.videoWidth);
    });
    this.media.addEventListener("error", () => {
      this.media.hidden = true;
      this.translate();
    });
    for (const kind of ["timeupdate", "seeked", "pause"]) this.media.addEventListener(kind, () => this.mark());
    this.media.addEventListener("play", () => this.#follow());
    this.container.append(this.media);
    this.translate();
  }

  // Writes all words around the text, in the page's language.
  translate() {
    for (const time of this.text.querySelectorAll(".time")) {
      time.setAttribute("aria-label", t("Play from {time}", { time: time.textContent }));
    }
    if (!this.media) return;
    this.media.setAttribute("aria-label", t("Player of {name}", { name: this.fileName }));
    const problem = t("This browser cannot play this file. It is transcribed all the same.");
    this.note.textContent = this.media.hidden ? problem : "";
  }

  close() {
    cancelAnimationFrame(this.#frame);
    this.media?.removeAttribute("src");
    if (this.address) URL.revokeObjectURL(this.address);
  }

  // Shows `lines` in place of those that are shown. Elements of lines that have not changed stay.
  show(lines) {
    const same = lines.findIndex((line, index) => line !== this.#shown[index]);
    const kept = same < 0 ? lines.length : same;
    const { text } = this;
    const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 80;
    for (const row of this.#rows.splice(kept)) row.line.remove();
    for (const line of lines.slice(kept)) this.#rows.push(this.#row(line));
    this.#shown = [...lines];
    if (atEnd && (!this.media || this.media.paused)) text.scrollTop = text.scrollHeight;
    this.mark();
  }

  #row(line) {
    const add = (parent, tag, className, content) => {
      const node = document.createElement(tag);
      node.className = className;
      node.textContent = content;
      parent.append(node);
      return node;
    };
    const row = add(this.text, "p", "line", "");
    const time = add(row, "button", "time", formatTime(line.start));
    Object.assign(time, { type: "button", tabIndex: -1 });
    time.dataset.start = line.start;
    time.setAttribute("aria-label", t("Play from {time}", { time: formatTime(line.start) }));
    const body = add(row, "span", "text", "");
    body.dir = "auto"; // Arabic and Persian run from the right
    const words = [];
    for (const [text, index] of pieces(line)) {
      const piece = add(body, "span", index < 0 ? "" : "word", text);
      if (index < 0) continue;
      piece.tabIndex = -1;
      piece.dataset.start = line.words[index][1];
      words[index] = piece;
    }
    return { line: row, words };
  }

  #follow() {
    this.mark();
    cancelAnimationFrame(this.#frame);
    if (!this.media.paused) this.#frame = requestAnimationFrame(() => this.#follow());
  }

  // Marks the line and the word that are heard now.
  mark() {
    if (!this.media) return;
    const heard = heardAt(this.#shown, this.media.currentTime);
    const row = this.#rows[heard.line];
    const now = row ? [row.line, row.words[heard.word]].filter(Boolean) : [];
    if (now.length === this.#marked.length && now.every((node, index) => node === this.#marked[index])) return;
    const isNewLine = now[0] !== this.#marked[0];
    for (const node of this.#marked) {
      node.classList.remove("now");
      node.removeAttribute("aria-current");
    }
    for (const node of now) node.classList.add("now");
    now[0]?.setAttribute("aria-current", "true");
    this.#marked = now;
    if (isNewLine && row) this.#reveal(row.line);
  }

  #reveal(line) {
    if (this.media.paused || performance.now() - this.#scrolledAt < USER_SCROLLS_MS) return;
    const { text } = this;
    const [top, height] = [line.offsetTop, line.offsetHeight]; // `text` is positioned, so it is counted from there
    const isVisible = top >= text.scrollTop && top + height <= text.scrollTop + text.clientHeight;
    if (!isVisible) text.scrollTop = top - text.clientHeight / 3;
  }

  #playFrom(target) {
    const place = target.closest("[data-start]");
    if (!place || !this.media || this.media.hidden) return;
    this.media.currentTime = Number(place.dataset.start);
    this.media.play().catch(() => {}); // the file cannot be played, as the note says
  }

  #key(event) {
    const places = [...this.text.querySelectorAll("[data-start]")];
    const at = places.indexOf(document.activeElement);
    const steps = { ArrowRight: at + 1, ArrowLeft: at - 1 };
    if (event.key in steps) {
      this.#scrolledAt = performance.now();
      (places[steps[event.key]] ?? places[at < 0 ? 0 : at])?.focus();
    } else if (event.key === "Escape" && at >= 0) {
      this.text.focus();
    } else if ((event.key === "Enter" || event.key === " ") && at >= 0) {
      this.#playFrom(document.activeElement);
    } else {
      return;
    }
    event.preventDefault();
  }
}
