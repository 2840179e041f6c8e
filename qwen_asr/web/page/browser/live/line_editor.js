// Edits a final line of the transcript in its place.

import { t } from "../shared/text.js";

export class LineEditor {
  #close = null; // ends the edit that is open

  // `element` holds the transcript. Its lines have a button `.edit`.
  constructor(element, transcript) {
    this.transcript = transcript;
    element.addEventListener("click", ({ target }) => {
      const button = target.closest(".utterance .edit");
      if (button) this.#open(button);
    });
    element.addEventListener("keydown", (event) => {
      const button = event.target.closest(".utterance .edit");
      if (event.key !== "F2" || !button) return;
      event.preventDefault();
      this.#open(button);
    });
  }

  #open(button) {
    this.#close?.(true);
    const utterance = button.closest(".utterance");
    const line = this.transcript.model.get(Number(utterance.dataset.id));
    if (!line) return;
    const field = utterance.ownerDocument.createElement("textarea");
    field.className = "editor";
    field.dir = "auto";
    field.rows = 1;
    field.enterKeyHint = "done";
    field.ariaLabel = t("Text of the line. Enter saves, Escape cancels.");
    field.value = line.settled;
    const fit = () => {
      field.style.height = "auto";
      field.style.height = `${field.scrollHeight + 2}px`; // with its border
    };
    this.#close = (save) => {
      this.#close = null; // taking the field away ends the edit too, by `blur`
      const hadFocus = field === field.ownerDocument.activeElement;
      utterance.classList.remove("editing");
      field.remove();
      if (save) this.transcript.edit(line.id, field.value);
      if (!hadFocus) return;
      if (button.isConnected) button.focus();
      else this.transcript.container.focus();
    };
    field.addEventListener("input", fit);
    field.addEventListener("blur", () => this.#close?.(true));
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return; // Enter may choose a Chinese word
      event.preventDefault();
      event.stopPropagation();
      this.#close(event.key === "Enter");
    });
    utterance.classList.add("editing");
    button.before(field);
    fit();
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}
