// Where the browser keeps the audio of recordings: in IndexedDB, or in memory where it allows no storage.
//
// A store has recordings, as kept_audio.js makes them, and their blocks, in order.

const NAME = "qwen-asr-audio";
const BATCH = 60; // blocks that are read at a time: a minute, some megabytes

function finished(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function committed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new DOMException("The storage has failed.", "AbortError"));
  });
}

export class IndexedAudio {
  lasting = true; // whether it outlives a reload of the page

  // Rejects where the browser allows no storage.
  static async open(factory) {
    const request = factory.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("recordings", { keyPath: "id" });
      request.result.createObjectStore("blocks");
    };
    const store = new IndexedAudio();
    store.database = await finished(request);
    return store;
  }

  all() { return finished(this.#of("recordings").getAll()); }

  // Changes what is known of a recording.
  put(recording) {
    return finished(this.database.transaction("recordings", "readwrite").objectStore("recordings").put(recording));
  }

  // Adds block number `index` of a recording, both or neither.
  async append(recording, index, block) {
    const transaction = this.database.transaction(["recordings", "blocks"], "readwrite");
    transaction.objectStore("recordings").put(recording);
    transaction.objectStore("blocks").put(block, [recording.id, index]);
    await committed(transaction);
  }

  // The blocks of a recording as Blobs, which the browser may keep on disk.
  async read(id) {
    const blobs = [];
    for (let from = 0; ;) {
      const range = IDBKeyRange.bound([id, from], [id, Infinity]);
      const blocks = await finished(this.#of("blocks").getAll(range, BATCH));
      if (!blocks.length) return blobs;
      blobs.push(new Blob(blocks));
      from += blocks.length;
    }
  }

  async remove(id) {
    const transaction = this.database.transaction(["recordings", "blocks"], "readwrite");
    transaction.objectStore("recordings").delete(id);
    transaction.objectStore("blocks").delete(IDBKeyRange.bound([id, 0], [id, Infinity]));
    await committed(transaction);
  }

  #of(name) { return this.database.transaction(name).objectStore(name); }
}

export class MemoryAudio {
  lasting = false;

  #recordings = new Map(); // by id: {recording, blocks}

  async all() { return [...this.#recordings.values()].map(({ recording }) => recording); }

  async put(recording) { this.#recordings.get(recording.id).recording = { ...recording }; }

  async append(recording, index, block) {
    const blocks = this.#recordings.get(recording.id)?.blocks ?? [];
    blocks[index] = block;
    this.#recordings.set(recording.id, { recording: { ...recording }, blocks });
  }

  async read(id) { return [new Blob(this.#recordings.get(id)?.blocks ?? [])]; }

  async remove(id) { this.#recordings.delete(id); }
}
