// Language, context and pause length of a recording while they change: which audio was spoken with which. Pure.
//
// The server uses what a message carries from the next utterance on. So each message carries what was chosen when its
// audio was spoken, also where it is sent late or again, and no message holds audio of two choices.

const NAMES = ["language", "context", "pause"];

export class OptionChanges {
  #chosen;         // [{from, options}]: what was chosen for the bytes from `from` on, in order
  #sent = 0;       // which of them the last message carried
  #begins = null;  // the first utterance of this part that has it, where the server says so
  #newest = -1;    // the newest utterance of this part
  #inUse;          // the options of the newest utterance, as far as is known

  refused = "";    // why the server cannot use what it was sent last

  constructor(options) {
    this.#chosen = [{ from: 0, options }];
    this.#inUse = options;
  }

  // The user has chosen `options`; the recording has `end` bytes.
  choose(options, end) {
    const last = this.#chosen.at(-1);
    if (NAMES.every((name) => equal(last.options[name], options[name]))) return;
    if (last.from === end) last.options = options;
    else this.#chosen.push({ from: end, options });
  }

  // The options for a message whose audio begins at `offset`, and the offset before which that audio has to end.
  at(offset) {
    const next = this.#chosen.findIndex(({ from }) => from > offset);
    this.#sent = (next < 0 ? this.#chosen.length : next) - 1;
    return { options: this.#chosen[this.#sent].options, until: this.#chosen[this.#sent + 1]?.from ?? Infinity };
  }

  // A new part begins on the server: nothing of it is known.
  restart() {
    this.#begins = null;
    this.#newest = -1;
  }

  // The server's reply to the last message.
  take({ options_from: begins, refused, utterances }) {
    this.#begins = begins ?? null;
    this.refused = refused ?? "";
    for (const { number } of utterances) this.#newest = Math.max(this.#newest, number);
    const waits = this.#begins !== null && this.#begins > this.#newest;
    if (!refused && !waits) this.#inUse = this.#chosen[this.#sent].options;
  }

  // What will change with the next utterance: {language, context, pause}, with the new values of those that do.
  get coming() {
    const { options } = this.#chosen.at(-1);
    const changing = this.refused ? [] : NAMES.filter((name) => !equal(options[name], this.#inUse[name]));
    return Object.fromEntries(changing.map((name) => [name, options[name]]));
  }
}

// An empty context is none, and so is one that was never given.
function equal(one, other) { return (one || null) === (other || null); }
