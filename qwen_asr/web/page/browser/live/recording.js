// Runs a recording: one message at a time to the server, repeated until a reply comes.

const REPLY_TIMEOUT_MS = 15000; // after which a block is sent again; its offset makes that harmless
const POLL_MS = 1000;           // text is asked for this often even if no audio comes
const BACK_OFF_MS = [250, 500, 1000, 2000, 4000];

// The pause before the next attempt, after so many failures in a row (from 1).
export function backOffMs(failures) { return BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length) - 1]; }

export class Recording {
  #wake = null;

  // `state`: a RecordingState. `exchange(message)`: resolves to the server's reply. `sleep(ms)`: resolves later.
  // `backOff(ms)`: the same, or sooner where the network returns. `onProgress()`: the state has changed.
  // `pollMs`: how long to wait for more audio when the server has all of it.
  constructor({ state, exchange, sleep, backOff, onProgress, pollMs = POLL_MS }) {
    Object.assign(this, { state, exchange, sleep, backOff, onProgress, pollMs });
  }

  push(bytes) {
    this.state.push(bytes);
    this.#wake?.();
  }

  end() {
    this.state.end();
    this.#wake?.();
  }

  // Resolves to the server's last reply. Rejects with UserError where the recording cannot go on.
  async run() {
    const { state } = this;
    for (;;) {
      const reply = await this.#post();
      const next = state.apply(reply);
      this.onProgress();
      if (next === "done") return reply;
      if (next === "retry") await this.backOff(backOffMs(state.failures));
      else if (next === "continue" && state.total === null && state.caughtUp) await this.#moreAudio();
    }
  }

  // Gradio's call resolves to undefined, or rejects, where the network or the server failed.
  async #post() {
    const reply = this.exchange(this.state.nextMessage());
    return Promise.race([reply, this.sleep(REPLY_TIMEOUT_MS)]).catch(() => undefined);
  }

  async #moreAudio() {
    await Promise.race([new Promise((resolve) => { this.#wake = resolve; }), this.sleep(this.pollMs)]);
    this.#wake = null;
  }
}
