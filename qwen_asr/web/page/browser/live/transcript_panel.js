// The panel with the transcript: its buttons, and what this browser keeps of it.

import { UserError, messageFor } from "../shared/errors.js";
import { language, t } from "../shared/text.js";
import { Transcript, setText } from "../shared/transcript.js";
import { fileName, linesForFile } from "../shared/transcript_file.js";
import { LineEditor } from "./line_editor.js";
import { TranscriptStore } from "./transcript_store.js";

const COPIED_MS = 1500;
const NOTE_MS = 8000;
const LOG_OUT_MS = 3000; // whatever the storage does
const KINDS = { txt: "text/plain", srt: "application/x-subrip", vtt: "text/vtt", json: "application/json" };

// The form stands above all tabs, where the transcript need not be in sight.
function sayBeside(form, message) {
  const note = form.querySelector("[role=alert]") ?? form.appendChild(document.createElement("p"));
  note.setAttribute("role", "alert");
  note.textContent = message;
  setTimeout(() => note.remove(), NOTE_MS);
}

export class TranscriptPanel {
  notice = "";       // what the panel has to say
  storage = "saved"; // see TranscriptStore
  #language = language();

  // `seconds()`: how much was recorded. `isRecording()`. `onChange()`: the panel is to be refreshed.
  constructor({ element, props, server, newId, seconds, isRecording, onChange }) {
    Object.assign(this, { element, props, server, seconds, isRecording, onChange });
    const path = new URL(".", location.href).pathname;
    this.transcript = new Transcript(this.find("#transcript"), this.find(".announcer"), {
      editable: true, onChange: (lines, gone) => this.#keep(lines, gone),
    });
    this.store = new TranscriptStore({ path, newId, onState: (state) => this.#stored(state) });
    this.channel = "BroadcastChannel" in window ? new BroadcastChannel(`qwen-asr ${path}`) : null;
    new LineEditor(this.find("#transcript"), this.transcript);
    this.actions = {
      copy: () => this.copy(),
      clear: () => this.clear(),
      undo: () => this.undo(),
      download: (button) => this.download(button.dataset.format),
    };
    this.#watchLogOut();
  }

  find(selector) { return this.element.querySelector(selector); }

  // Shows the text that this browser has kept for the user `owner`. Resolves to how much was recorded, in seconds.
  async restore(owner) {
    const { lines, seconds } = await this.store.open(owner);
    this.transcript.restore(lines);
    return this.transcript.model.lines.reduce((latest, line) => Math.max(latest, line.end), seconds);
  }

  // Puts the state of the panel into its elements.
  refresh() {
    const { transcript } = this;
    if (this.#language !== language()) {
      this.#language = language();
      transcript.translate();
    }
    this.#enable("[data-do=copy]", transcript.hasText);
    this.#enable("[data-do=clear]", !transcript.isEmpty);
    for (const button of this.element.querySelectorAll("[data-do=download]")) this.#enable(button, transcript.hasText);
    const undo = this.find("[data-do=undo]");
    undo.hidden = !transcript.model.canUndo;
    undo.title = t("Brings back what was removed last. Possible until more is removed or a new recording begins.");
    const kept = this.props.has_login
      ? t("This browser keeps the text until you press Clear or log out.")
      : t("This browser keeps the text until you press Clear.");
    const isKept = this.storage !== "failed";
    setText(this.find(".kept"), isKept ? kept : "");
    this.find(".kept").dataset.storage = this.storage;
    const lost = t("This browser does not keep the text (its storage is full or switched off): download or copy it before " +
      "you close the page.");
    setText(this.find("#transcript-notice"), this.notice || (isKept || transcript.isEmpty ? "" : lost));
  }

  // Times of a recording that begins may start anew, so what was removed has no place in it.
  beginRecording() {
    this.notice = "";
    this.transcript.model.forgetRemoved();
  }

  endRecording() { this.store.save([], this.seconds()); }

  async copy() {
    const button = this.find("[data-do=copy]");
    try {
      await navigator.clipboard.writeText(this.transcript.text);
      setText(button, t("Copied"));
    } catch { // there is no clipboard without https: select the text, so that one key copies it
      getSelection().selectAllChildren(this.transcript.container);
      setText(button, t("Selected"));
    }
    setTimeout(() => setText(button, t("Copy")), COPIED_MS);
  }

  // What else belongs to the text, such as its audio, follows these events of the document.
  clear() {
    this.transcript.clear(this.isRecording());
    document.dispatchEvent(new Event("qwen-asr-cleared"));
    this.#say(t("Cleared. Undo brings the text back."));
  }

  undo() {
    const hadFocus = document.activeElement === this.find("[data-do=undo]");
    const { undoesClear } = this.transcript.model;
    this.transcript.undo();
    if (undoesClear) document.dispatchEvent(new Event("qwen-asr-restored"));
    this.#say("");
    if (hadFocus) this.find("[data-do=clear]").focus(); // the button that had it is gone
  }

  async download(format) {
    const button = this.find(`[data-format=${format}]`);
    if (button.getAttribute("aria-busy") === "true") return;
    button.setAttribute("aria-busy", "true");
    try {
      const text = await this.#fileText(format);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: `${KINDS[format]};charset=utf-8` }));
      link.download = fileName(new Date(), format);
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      this.#say("");
    } catch (error) {
      this.#say(messageFor(error, t("The file could not be made: the server does not answer. Try again.")));
    }
    button.removeAttribute("aria-busy");
  }

  // Gradio's call resolves to undefined, or rejects, where the network or the server failed.
  async #fileText(format) {
    const lines = linesForFile(this.transcript.model.lines, this.props.download_bytes);
    if (lines === null) throw new UserError(t("The transcript is too long for one file. Copy it instead."));
    const reply = await this.server.download({ format, lines });
    if (reply?.error) throw new UserError(reply.error);
    if (typeof reply?.text !== "string") throw new Error("There is no text in the reply.");
    return reply.text;
  }

  #say(notice) {
    this.notice = notice;
    this.onChange();
  }

  #enable(where, enabled) {
    const button = typeof where === "string" ? this.find(where) : where;
    button.setAttribute("aria-disabled", !enabled);
  }

  #keep(lines, gone) {
    if (gone.length) this.store.remove(gone);
    if (lines.length) this.store.save(lines, this.seconds());
    this.onChange();
  }

  #stored(state) {
    this.storage = state;
    this.onChange();
  }

  // The text of one user must not show to the next one, in no tab. But while somebody speaks into a tab, it keeps what
  // it shows: the recording goes on after a new login.
  #watchLogOut() {
    this.channel?.addEventListener("message", () => {
      if (this.isRecording()) return;
      this.transcript.clear(false);
      this.transcript.model.forgetRemoved();
      this.onChange();
      location.reload();
    });
    document.addEventListener("submit", async (event) => {
      const form = event.target.closest(".log-out");
      if (!form) return;
      event.preventDefault();
      if (this.isRecording()) {
        sayBeside(form, t("Stop the recording before you log out."));
        return;
      }
      await Promise.race([this.store.removeAll(), new Promise((resolve) => setTimeout(resolve, LOG_OUT_MS))]);
      // Only when the server has ended the login: the other tabs then load its form.
      const answer = await fetch(form.action, { method: "POST", redirect: "manual" }).catch(() => null);
      this.channel?.postMessage("logged out");
      if (answer) location.reload();
      else form.submit(); // the browser says what is wrong
    });
  }
}
