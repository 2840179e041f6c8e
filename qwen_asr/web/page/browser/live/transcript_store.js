// Keeps the transcript in this browser until it is cleared: IndexedDB, one record for each line.
//
// A line is written as a whole, so hours of text cost no more at each final than minutes. Finals are written at once,
// text that may still change within a second.
//
// Each tab has a transcript of its own, whose name is in the tab's sessionStorage: it survives a reload. While the tab
// is open it holds a lock of that name, so a tab that was duplicated, and has the same name, begins another one. A tab
// without a name goes on with the transcript that changed last among those that no open tab holds: that is how text
// comes back after the browser was closed or has crashed.
//
// `owner` is the user where there is a login, else "": nobody gets the text of another user.

const TAB = "qwen-asr.transcript";  // in sessionStorage: the name of this tab's transcript
const SAVE_MS = 1000;
const LOCK_MS = 1500;               // a page that is reloaded may hold its lock for a moment longer
const OPEN_MS = 8000;               // a browser that has not opened its storage by then never does
const LINES = "lines";
const TRANSCRIPTS = "transcripts";

const settled = (request) => new Promise((resolve, reject) => {
  request.addEventListener("success", () => resolve(request.result));
  request.addEventListener("error", () => reject(request.error));
});

const completed = (transaction) => new Promise((resolve, reject) => {
  transaction.addEventListener("complete", () => resolve());
  transaction.addEventListener("abort", () => reject(transaction.error));
});

export class TranscriptStore {
  #database = null;
  #id = null;
  #owner = "";
  #lines = new Map();  // by id: not written yet
  #gone = new Set();   // ids that are to be deleted
  #seconds = 0;
  #timer = 0;
  #writes = 0;         // that are under way
  #late = false;       // the storage has not opened in time

  // `path` tells apart the servers of one origin. `onState(state)`: "saving", "saved", or "failed" where the browser
  // keeps nothing.
  constructor({ path, newId, onState }) {
    Object.assign(this, { name: `qwen-asr ${path}`, newId, onState });
  }

  // Resolves to {lines, seconds} of this tab: its lines, and how much it has recorded. Never rejects.
  async open(owner) {
    this.#owner = owner;
    const late = new Promise((_, reject) => setTimeout(() => reject(new Error("It does not open.")), OPEN_MS));
    try {
      return await Promise.race([this.#open(), late]);
    } catch (error) {
      this.#late = true;
      this.#fail(error);
      return { lines: [], seconds: 0 };
    }
  }

  async #open() {
    const request = indexedDB.open(this.name, 1);
    request.addEventListener("upgradeneeded", () => {
      request.result.createObjectStore(TRANSCRIPTS, { keyPath: "id" });
      request.result.createObjectStore(LINES, { keyPath: ["transcript", "id"] });
    });
    const database = await settled(request);
    database.addEventListener("versionchange", () => database.close()); // a newer page needs another form of it
    const kept = await settled(database.transaction(TRANSCRIPTS).objectStore(TRANSCRIPTS).getAll());
    this.#id = await this.#choose(kept);
    sessionStorage.setItem(TAB, this.#id);
    const lines = await settled(database.transaction(LINES).objectStore(LINES).getAll(this.#range(this.#id)));
    const seconds = kept.find(({ id }) => id === this.#id)?.seconds ?? 0;
    if (!this.#late) this.#database = database;
    return { lines, seconds };
  }

  // `seconds`: how much was recorded. `lines`: those that are new or have changed.
  save(lines, seconds) {
    this.#seconds = seconds;
    for (const line of lines) {
      this.#lines.set(line.id, line);
      this.#gone.delete(line.id);
    }
    if (lines.some((line) => line.final)) this.#flush();
    else this.#timer ||= setTimeout(() => this.#flush(), SAVE_MS);
  }

  remove(lines) {
    for (const line of lines) {
      this.#lines.delete(line.id);
      this.#gone.add(line.id);
    }
    this.#flush();
  }

  // Deletes all transcripts of the user, also those of other tabs. Nothing is kept after it. Never rejects.
  async removeAll() {
    const database = this.#database;
    this.#database = null;
    try {
      if (database) await this.#removeAll(database);
    } catch (error) {
      this.#fail(error);
    }
  }

  async #removeAll(database) {
    const all = await settled(database.transaction(TRANSCRIPTS).objectStore(TRANSCRIPTS).getAll());
    const transaction = database.transaction([LINES, TRANSCRIPTS], "readwrite");
    for (const { id, owner } of all) if (owner === this.#owner) this.#delete(transaction, id);
    await completed(transaction);
  }

  #delete(transaction, id) {
    transaction.objectStore(LINES).delete(this.#range(id));
    transaction.objectStore(TRANSCRIPTS).delete(id);
  }

  #range(id) { return IDBKeyRange.bound([id, 0], [id, Infinity]); }

  // The name of the transcript that this tab has or goes on with.
  async #choose(kept) {
    const own = sessionStorage.getItem(TAB);
    const isOfAnother = kept.some(({ id, owner }) => id === own && owner !== this.#owner);
    if (own && !isOfAnother && await this.#lock(own, LOCK_MS)) return own;
    if (!own || isOfAnother) {
      const mine = kept.filter(({ owner }) => owner === this.#owner).sort((a, b) => b.changed - a.changed);
      for (const { id } of mine) if (await this.#lock(id)) return id;
    }
    const id = this.newId();
    await this.#lock(id);
    return id;
  }

  // Resolves to whether this tab has the lock. It keeps it as long as it is open.
  #lock(id, patience = 0) {
    const options = patience ? { signal: AbortSignal.timeout(patience) } : { ifAvailable: true };
    return new Promise((resolve, reject) => {
      navigator.locks.request(`${this.name} ${id}`, options, (lock) => {
        resolve(Boolean(lock));
        return lock && new Promise(() => {});
      }).catch((error) => error.name === "TimeoutError" ? resolve(false) : reject(error));
    });
  }

  #flush() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const database = this.#database;
    if (!database) return;
    const lines = this.#lines;
    const gone = this.#gone;
    [this.#lines, this.#gone] = [new Map(), new Set()];
    this.#write(database, lines, gone).catch((error) => {
      // The next change tries again.
      for (const [id, line] of lines) if (!this.#lines.has(id) && !this.#gone.has(id)) this.#lines.set(id, line);
      for (const id of gone) if (!this.#lines.has(id)) this.#gone.add(id);
      this.#fail(error);
    });
  }

  async #write(database, lines, gone) {
    const transcript = this.#id;
    this.#writes++;
    this.onState("saving");
    try {
      const transaction = database.transaction([LINES, TRANSCRIPTS], "readwrite", { durability: "strict" });
      const store = transaction.objectStore(LINES);
      for (const id of gone) store.delete([transcript, id]);
      for (const line of lines.values()) store.put({ ...line, transcript });
      const transcripts = transaction.objectStore(TRANSCRIPTS);
      // Without lines there is nothing that another tab could go on with.
      if (!lines.size && await settled(store.count(this.#range(transcript))) === 0) transcripts.delete(transcript);
      else transcripts.put({ id: transcript, owner: this.#owner, seconds: this.#seconds, changed: Date.now() });
      transaction.commit(); // at once: this page may be gone in a moment
      await completed(transaction);
    } finally {
      this.#writes--;
    }
    if (!this.#writes) this.onState("saved");
  }

  #fail(error) {
    console.warn("The browser's storage:", error);
    this.onState("failed");
  }
}
