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
    const button = (parent, className, text, label, action) => {
      const node = add(parent, "button", className, { type: "button", "aria-label": label });
      node.textContent = text;
      node.addEventListener("click", action);
      return node;
    };
    const { name } = item;
    this.element = document.createElement("li");
    this.element.className = "file";
    const head = add(this.element, "div", "head");
    const words = add(head, "div", "about");
    this.name = add(words, "h3", "name", { dir: "auto" });
    this.status = add(words, "p", "state");
    const buttons = add(head, "div", "buttons");
    this.cancel = button(buttons, "cancel", t("Cancel"), t("Cancel {name}", { name }), on.cancel);
    this.retry = button(buttons, "retry", t("Retry"), t("Retry {name}", { name }), on.retry);
    this.remove = button(buttons, "remove", t("Remove"), t("Remove {name}", { name }), on.remove);
    this.progress = add(this.element, "progress", "progress", { max: "1", "aria-label": t("Progress of {name}", { name }) });
    const media = add(this.element, "div", "media");
    const note = add(this.element, "p", "note", { role: "status" });
    this.text = add(this.element, "div", "lines", {
      role: "region", tabindex: "0", "aria-label": t("Text of {name}", { name }),
    });
    this.downloads = add(this.element, "div", "downloads", { role: "group", "aria-label": t("Download {name}", { name }) });
    add(this.downloads, "span", "label").textContent = t("Download");
    for (const format of FORMATS) {
      const label = t("Download {name} as {format}", { name, format: format.toUpperCase() });
      button(this.downloads, "download", format.toUpperCase(), label, () => on.download(format));
    }
    this.player = new Player({ media, text: this.text, note });
    this.refresh();
  }

  // Puts the state of the file into its elements.
  refresh() {
    const { item } = this;
    setText(this.name, item.name);
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
