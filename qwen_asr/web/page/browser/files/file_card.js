// One file in the list: its name, its state, its buttons, its player and its text.

import { t } from "../shared/text.js";
import { setText } from "../shared/transcript.js";
import { CANCELLED, FAILED, WAITING } from "./file_state.js";
import { Player } from "./player.js";

const FORMATS = ["txt", "srt", "vtt", "json"];

export class FileCard {
  // `on` has what happens: cancel(), retry(), remove(), download(format).
  constructor(item, on) {
    this.item = item;
    const add = (parent, tag, className, attributes = {}) => {
      const node = document.createElement(tag);
      node.className = className;
      for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
      parent.append(node);
      return node;
    };
    const button = (parent, className, action) => {
      const node = add(parent, "button", className, { type: "button" });
      node.addEventListener("click", action);
      return node;
    };
    this.element = document.createElement("li");
    this.element.className = "file";
    const head = add(this.element, "div", "head");
    const words = add(head, "div", "about");
    this.name = add(words, "h3", "name", { dir: "auto" });
    this.status = add(words, "p", "state");
    const buttons = add(head, "div", "buttons");
    this.cancel = button(buttons, "cancel", on.cancel);
    this.retry = button(buttons, "retry", on.retry);
    this.remove = button(buttons, "remove", on.remove);
    this.progress = add(this.element, "progress", "progress", { max: "1" });
    const media = add(this.element, "div", "media");
    const note = add(this.element, "p", "note", { role: "status" });
    this.text = add(this.element, "div", "lines", { role: "region", tabindex: "0" });
    this.downloads = add(this.element, "div", "downloads", { role: "group" });
    this.download = add(this.downloads, "span", "label");
    this.formats = FORMATS.map((format) => {
      const node = button(this.downloads, "download", () => on.download(format));
      node.textContent = format.toUpperCase();
      return node;
    });
    this.player = new Player({ media, text: this.text, note });
    this.translate();
  }

  // Writes all words of the card, in the page's language. The name of a file may follow only when it is fetched.
  translate() {
    const { name } = this.item;
    const label = (node, text) => node.setAttribute("aria-label", text);
    setText(this.cancel, t("Cancel"));
    label(this.cancel, t("Cancel {name}", { name }));
    setText(this.retry, t("Retry"));
    label(this.retry, t("Retry {name}", { name }));
    setText(this.remove, t("Remove"));
    label(this.remove, t("Remove {name}", { name }));
    label(this.progress, t("Progress of {name}", { name }));
    label(this.text, t("Text of {name}", { name }));
    label(this.downloads, t("Download {name}", { name }));
    setText(this.download, t("Download"));
    for (const node of this.formats) {
      label(node, t("Download {name} as {format}", { name, format: node.textContent }));
    }
    this.player.translate();
    this.refresh();
  }

  // Puts the state of the file into its elements.
  refresh() {
    const { item } = this;
    if (this.name.textContent !== item.name) {
      this.name.textContent = item.name;
      this.translate();
      return;
    }
    setText(this.status, item.text);
    this.element.dataset.state = item.state;
    this.cancel.hidden = item.ended;
    this.retry.hidden = item.state !== FAILED && item.state !== CANCELLED;
    this.remove.hidden = !item.ended;
    this.progress.hidden = item.ended || item.state === WAITING;
    if (item.fraction === null) this.progress.removeAttribute("value");
    else this.progress.value = item.fraction;
    if (item.file) this.player.load(item.file);
    this.player.show(item.lines);
    this.text.hidden = this.downloads.hidden = !item.lines.length;
  }

  close() {
    this.player.close();
    this.element.remove();
  }
}
