// Reads a stream of server-sent events, each with one JSON object as its data. Pure.

export class EventReader {
  #read = 0; // characters of the text that are read

  // The events in `text` that were not given yet. `text`: all of the stream so far; its last event may be incomplete.
  read(text) {
    const events = [];
    for (;;) {
      const end = text.indexOf("\n\n", this.#read);
      if (end < 0) return events;
      const event = text.slice(this.#read, end);
      this.#read = end + 2;
      if (event.startsWith("data: ")) events.push(JSON.parse(event.slice(6)));
    }
  }
}
