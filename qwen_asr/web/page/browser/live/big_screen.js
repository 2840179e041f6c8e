// Captions for a room: the newest two lines of the transcript, as large as the screen allows.
//
// It follows the elements of the transcript, so it shows whatever they show. Lines roll up, as live captions on
// television do: a line that is on the screen stays where it is until the next one pushes it up. The page behind it
// stays as it is, and the recording goes on.

import { t } from "../shared/text.js";
import { setText } from "../shared/transcript.js";

const SHOWN = 3; // utterances that are kept: more than two lines of them are on the screen only while they roll
const WORDS = ".settled, .tentative";

export class BigScreen {
  element = null;     // while it is open
  fillsScreen = false;
  #lines = new Map(); // element of the transcript → its element here
  #offset = 0;        // in px: how far the lines have rolled up

  // `root` holds the transcript, the status and the announcer.
  constructor(root) {
    this.root = root;
    this.observer = new MutationObserver(() => this.update());
    this.resizing = new ResizeObserver(() => this.rollTo(this.end(), false));
  }

  listen() {
    addEventListener("keydown", (event) => {
      if (event.altKey && event.key === "Enter") {
        event.preventDefault();
        if (this.element) this.close();
        else this.open();
      }
      if (!this.element) return;
      if (event.key === "Escape") this.close();
      if (event.key === "Tab") event.preventDefault(); // there is one button
    });
    // Not before it has filled the screen: the event may still be that of one that was closed.
    document.addEventListener("fullscreenchange", () => {
      if (this.element && document.fullscreenElement === this.element) this.fillsScreen = true;
      else if (this.fillsScreen) this.close();
    });
  }

  open() {
    if (this.element) return;
    this.opener = document.activeElement;
    this.element = this.#create();
    this.fillsScreen = false;
    document.body.append(this.element);
    this.setOthersInert(true);
    this.find("button").focus();
    this.#lines.clear();
    this.#offset = 0;
    const watched = { childList: true, subtree: true, characterData: true };
    for (const part of ["#transcript", "#status", "#advice", ".announcer"]) {
      this.observer.observe(this.root.querySelector(part), watched);
    }
    this.resizing.observe(this.find(".window"));
    this.update();
    // Not everywhere: on an iPhone only a video can fill the screen. Then it fills the window.
    this.element.requestFullscreen?.().catch(() => {});
  }

  close() {
    const { element } = this;
    if (!element) return;
    this.element = null;
    this.observer.disconnect();
    this.resizing.disconnect();
    element.remove(); // leaves the full screen too
    this.setOthersInert(false);
    this.opener?.focus();
  }

  find(selector) { return this.element.querySelector(selector); }

  setOthersInert(inert) {
    for (const other of document.body.children) if (other !== this.element) other.inert = inert;
  }

  update() {
    if (!this.element) return;
    const said = (selector) => this.root.querySelector(selector).textContent.trim();
    setText(this.find("[role=status]"), [said("#status"), said("#advice")].filter(Boolean).join(" – "));
    setText(this.find(".announcer"), said(".announcer"));
    const utterances = [...this.root.querySelectorAll("#transcript .utterance:not(.failed)")].slice(-SHOWN);
    const removed = this.#removeAllBut(utterances);
    for (const utterance of utterances) this.#show(utterance);
    if (removed) this.rollTo(Math.max(0, this.#offset - removed), false);
    // Never back: a word that is recognized differently may make the text a line shorter, and longer again.
    const end = this.end();
    this.rollTo(utterances.length ? Math.max(this.#offset, end) : end, true);
  }

  // The offset at which the last line is the lower one.
  end() { return Math.max(0, this.find(".lines").scrollHeight - this.find(".window").clientHeight); }

  rollTo(offset, smoothly) {
    const lines = this.find(".lines");
    this.#offset = offset;
    lines.classList.toggle("rolls", smoothly && !matchMedia("(prefers-reduced-motion: reduce)").matches);
    lines.style.transform = `translateY(${-offset}px)`;
    if (!smoothly) lines.getBoundingClientRect(); // applied now, before the next roll begins
  }

  // Returns the height that went away above those that stay.
  #removeAllBut(utterances) {
    let height = 0;
    let isAbove = true;
    for (const [utterance, line] of this.#lines) {
      if (utterances.includes(utterance)) {
        isAbove = false;
        continue;
      }
      if (isAbove) height += line.offsetHeight;
      line.remove();
      this.#lines.delete(utterance);
    }
    return height;
  }

  #show(utterance) {
    let line = this.#lines.get(utterance);
    if (!line) {
      line = document.createElement("p");
      line.dir = "auto";
      line.innerHTML = "<span class='settled'></span><span class='tentative'></span>";
      this.#lines.set(utterance, line);
      this.find(".lines").append(line);
    }
    for (const part of WORDS.split(", ")) {
      setText(line.querySelector(part), utterance.querySelector(part)?.textContent ?? "");
    }
  }

  #create() {
    const element = document.createElement("div");
    element.className = "big-screen";
    element.setAttribute("role", "dialog");
    element.setAttribute("aria-modal", "true");
    element.setAttribute("aria-label", t("Captions"));
    element.innerHTML = `<div class="window"><div class="lines"></div></div>
      <div class="bar"><div role="status"></div><button type="button"></button></div>
      <div class="announcer" aria-live="polite"></div>`;
    const button = element.querySelector("button");
    button.textContent = t("Leave");
    button.addEventListener("click", () => this.close());
    return element;
  }
}
