// The File tab: files that are dropped, chosen or linked become cards with their text. files/component.py starts it.

import { UserError, messageFor } from "../shared/errors.js";
import { Settings, browserStorage } from "../shared/settings.js";
import { followLanguage, t } from "../shared/text.js";
import { setText } from "../shared/transcript.js";
import { FileCard } from "./file_card.js";
import { FileList, FileState, formatSize } from "./file_state.js";
import { Cancelled, fetched, transcribe } from "./transfer.js";

const failed = () => t("The page failed on this file. Press Retry.");

class FileTab {
  files = new FileList();
  #cards = new Map();   // by the id of the file
  #abort = null;        // the AbortController of the file that is worked on
  #ids = 0;

  // The arguments are those of Gradio's `js_on_load`: the component's element, its properties, its server functions.
  constructor(element, props, server) { Object.assign(this, { element, props, server }); }

  find(selector) { return this.element.querySelector(selector); }

  start() {
    followLanguage(this.element, new Settings(browserStorage(), document), navigator.languages, () => {
      setText(this.find(".limit"), t("At most {size} each", { size: formatSize(this.props.file_bytes) }));
      setText(this.find(".announcer"), ""); // it has been read
      this.#cards.forEach((card) => card.translate());
    });
    const input = this.find("input[type=file]");
    input.addEventListener("change", () => {
      this.take([...input.files]);
      input.value = ""; // so that the same file can be chosen again
    });
    this.find(".link").hidden = !this.props.has_links;
    this.find(".link").addEventListener("submit", (event) => {
      event.preventDefault();
      this.takeLink(this.find("#file-link"));
    });
    this.find(".clear").addEventListener("click", () => this.clear());
    this.listenForDrops();
    addEventListener("beforeunload", (event) => { if (this.files.busy) event.preventDefault(); });
  }

  listenForDrops() {
    const zone = this.find(".drop");
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    let depth = 0; // events come from the elements inside, too
    const enter = (change) => (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      depth = Math.max(0, depth + change);
      zone.classList.toggle("over", depth > 0);
    };
    zone.addEventListener("dragenter", enter(1));
    zone.addEventListener("dragleave", enter(-1));
    zone.addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
    zone.addEventListener("drop", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      depth = 0;
      zone.classList.remove("over");
      const items = [...event.dataTransfer.items].filter(({ kind }) => kind === "file");
      const folders = items.filter((item) => item.webkitGetAsEntry?.()?.isDirectory).length;
      this.take(items.filter((item) => !item.webkitGetAsEntry?.()?.isDirectory).map((item) => item.getAsFile()));
      if (folders) this.complain(t("That is a folder. Drop the files that are in it."));
    });
  }

  complain(message) { setText(this.find(".problem"), message); }

  // Adds files to the list. Those that the server would refuse anyway are not sent.
  take(files) {
    this.complain("");
    const most = this.props.file_bytes;
    for (const file of files) {
      const item = this.add({ name: file.name, file });
      if (!file.size) item.fail(t("The file is empty. Choose another one."));
      else if (file.size > most) item.fail(tooLarge(file.size, most));
      this.#cards.get(item.id).refresh();
    }
    this.work();
  }

  takeLink(input) {
    this.complain("");
    const url = input.value.trim();
    if (!/^https?:\/\/[^/]/i.test(url)) {
      this.complain(t("This is not the address of a file. It begins with https:// or http://."));
      return;
    }
    this.add({ name: url, url });
    input.value = "";
    this.work();
  }

  add(values) {
    const item = new FileState({ id: ++this.#ids, ...values });
    this.files.add(item);
    const card = new FileCard(item, {
      cancel: () => this.cancel(item),
      retry: () => this.retry(item),
      remove: () => this.remove(item),
      download: (format) => this.download(item, format),
    });
    this.#cards.set(item.id, card);
    this.find(".items").append(card.element);
    this.refreshList();
    return item;
  }

  refreshList() {
    const { items } = this.files;
    this.find(".toolbar").hidden = this.find(".hint").hidden = !items.length;
    this.find(".clear").disabled = !items.some((item) => item.ended);
  }

  // Works on the files one after another, until none waits.
  async work() {
    for (let item = this.files.next; item; item = this.files.next) {
      await this.process(item);
      this.announce(item);
      this.refreshList();
    }
  }

  async process(item) {
    const card = this.#cards.get(item.id);
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    const show = (change) => {
      if (item.ended) return;
      change();
      card.refresh();
    };
    try {
      if (!item.file) {
        const onProgress = (loaded, total) => show(() => item.fetching(loaded, total));
        onProgress(0, null);
        item.fetched(await fetched({ address: this.props.link, url: item.url, signal, onProgress }));
        if (!item.file.size) throw new UserError(t("The file is empty. Choose another one."));
      }
      // What is chosen for the page when the turn of the file comes.
      const { language, context, model } = document.getElementById("microphone")?.options ?? {};
      show(() => item.uploading(0, item.file.size));
      await transcribe({
        address: this.props.transcribe, file: item.file, language, context, model, signal,
        onUpload: (loaded, total) => show(() => item.uploading(loaded, total)),
        onEvent: (event) => show(() => item.take(event, performance.now())),
      });
    } catch (error) {
      if (!(error instanceof Cancelled)) item.fail(messageFor(error, failed()));
    }
    card.refresh();
  }

  // What has become of a file, for those who do not see it.
  announce(item) { setText(this.find(".announcer"), `${item.name}: ${item.text}`); }

  cancel(item) {
    const { active } = item;
    item.cancel();
    if (active) this.#abort.abort();
    this.#cards.get(item.id).refresh();
    this.#cards.get(item.id).retry.focus();
    this.refreshList();
  }

  retry(item) {
    item.retry();
    this.#cards.get(item.id).refresh();
    this.#cards.get(item.id).cancel.focus();
    this.refreshList();
    this.work();
  }

  remove(item) {
    this.files.remove(item);
    this.close(item);
    this.find("input[type=file]").focus();
  }

  clear() {
    this.files.clearEnded().forEach((item) => this.close(item));
    this.find("input[type=file]").focus();
  }

  close(item) {
    this.#cards.get(item.id).close();
    this.#cards.delete(item.id);
    this.refreshList();
  }

  async download(item, format) {
    const reply = await this.server.download({ format, lines: JSON.stringify(item.lines) });
    if (!reply || reply.error) {
      this.complain(reply?.error ?? t("The connection to the server broke. Try the download again."));
      return;
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([reply.text], { type: "text/plain" }));
    link.download = `${item.name.replace(/\.[^.]+$/, "")}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}

const tooLarge = (size, most) => t(
  "The file has {size}, and this server takes at most {most}. Compress it, or split it.",
  { size: formatSize(size), most: formatSize(most) },
);

export function start(element, props, server) { new FileTab(element, props, server).start(); }
