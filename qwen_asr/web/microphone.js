// The page's microphone and its text. Runs once per tab, as Gradio's js_on_load, with `element`, `props`, `server`.
// Three parts: Capture (the microphone), Recording (bytes to the server, text back), and the page around them.
// All text goes into the page through textContent: nothing that is said or recognised can become markup.

const find = (selector) => element.querySelector(selector);
const button = find("[data-do=record]");
const transcript = find("#transcript");
const debug = new URLSearchParams(location.search).has("debug"); // keeps every byte to hash it, for the tests
const root = element.closest("#microphone") || element;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const hex = (bytes) => Array.from(new Uint8Array(bytes), (b) => b.toString(16).padStart(2, "0")).join("");

class Sentence extends Error {} // an error that is a sentence for people

// ---------------------------------------------------------------------------------------------- the microphone

const INSECURE =
  "The browser gives the microphone only to pages that came over https://. Open the https:// address of this page" +
  " (the server prints it; it has one when started with --generate-self-signed-cert).";
const DENIED =
  "The browser does not let this page use the microphone. Allow it in the site settings beside the address, then press Record.";
const MISSING = "No microphone was found. Plug one in or switch it on, then press Record.";
const BUSY = "The microphone could not be opened: another program may be using it. Close that one, then press Record.";
const OLD = "This browser cannot record here. Use the simple recorder below.";
const BLOCKED = "A content security policy forbids the recorder (it needs blob: in script-src). Use the simple recorder below.";
const UNPLUGGED = "The microphone was unplugged. What it heard is below; plug it in again, then press Record.";
const PAUSED = "The device has paused the microphone. Tap the page to go on.";

function obstacle() {
  if (!window.isSecureContext) return INSECURE;
  return navigator.mediaDevices?.getUserMedia && window.AudioWorkletNode ? "" : OLD;
}

class Capture {
  // onBlock(bytes: Uint8Array, peak: 0..1), onTrouble(sentence, ended)
  static async open(onBlock, onTrouble) {
    const sentence = obstacle();
    if (sentence) throw new Sentence(sentence);
    const capture = new Capture();
    capture.stream = await navigator.mediaDevices.getUserMedia({ audio: {
      channelCount: { ideal: 1 },
      echoCancellation: false, // the page plays nothing; on phones this would also switch to a telephone's narrow sound
      noiseSuppression: false, // takes consonants with the noise; the model has learnt from noisy speech
      autoGainControl: true,   // a microphone across the table is too quiet otherwise, and gain changes no word
    } }).catch((error) => { throw new Sentence(capture.sentence(error)); });
    try {
      await capture.connect(onBlock);
    } catch (error) {
      capture.release();
      throw error;
    }
    capture.stream.getAudioTracks()[0].onended = () => onTrouble(UNPLUGGED, true);
    // iOS interrupts the context for a call or another app, and only a touch may resume it.
    capture.context.onstatechange = () => {
      if (capture.context.state !== "running" && capture.context.state !== "closed") onTrouble(PAUSED, false);
      else if (capture.context.state === "running") onTrouble("", false);
    };
    return capture;
  }

  sentence(error) {
    if (error.name === "NotAllowedError" || error.name === "SecurityError") return DENIED;
    if (error.name === "NotFoundError" || error.name === "OverconstrainedError") return MISSING;
    return BUSY;
  }

  async connect(onBlock) {
    // At the microphone's own rate where the browser tells it and can do it: no resampling in the browser, and no more
    // bytes than there is sound. Firefox refuses to join two rates; there the context's own rate is taken.
    const rate = this.stream.getAudioTracks()[0].getSettings().sampleRate;
    try {
      this.context = new AudioContext(rate ? { sampleRate: rate } : {});
      this.source = this.context.createMediaStreamSource(this.stream);
    } catch {
      this.context?.close();
      this.context = new AudioContext();
      this.source = this.context.createMediaStreamSource(this.stream);
    }
    this.rate = this.context.sampleRate;
    const url = URL.createObjectURL(new Blob([props.worklet], { type: "text/javascript" }));
    try {
      await this.context.audioWorklet.addModule(url);
    } catch {
      throw new Sentence(BLOCKED); // Gradio itself needs 'unsafe-eval', a stricter policy would not show this page at all
    } finally {
      URL.revokeObjectURL(url);
    }
    this.node = new AudioWorkletNode(this.context, "qwen-asr-blocks", {
      channelCount: 1, channelCountMode: "explicit", // stereo is mixed to mono by the browser
    });
    this.ended = new Promise((resolve) => {
      this.node.port.onmessage = ({ data }) => data.end ? resolve() : onBlock(new Uint8Array(data.bytes), data.peak);
    });
    // Some browsers run a node only while it leads to the speakers; ours is silent there.
    this.source.connect(this.node).connect(this.context.destination);
    await this.resume();
  }

  async resume() {
    if (this.context.state !== "running") await Promise.race([this.context.resume().catch(() => {}), sleep(500)]);
  }

  async close() {
    // The last sound is still on its way through the browser's buffers when Stop is pressed.
    await sleep(200);
    this.node.port.postMessage("end");
    await Promise.race([this.ended, sleep(1000)]); // a suspended audio thread may never answer
    this.release();
  }

  release() {
    for (const track of this.stream.getTracks()) { track.onended = null; track.stop(); }
    if (this.context) { this.context.onstatechange = null; this.context.close().catch(() => {}); }
  }
}

// ---------------------------------------------------------------------------------------------- bytes and text

// Bytes that the server may still need, by their offset in the recording.
class Kept {
  constructor() { this.blocks = []; this.start = 0; this.end = 0; }

  push(bytes) { this.blocks.push(bytes); this.end += bytes.length; }

  forget(before) {
    while (this.blocks.length && this.start + this.blocks[0].length <= before) this.start += this.blocks.shift().length;
  }

  read(from, most) {
    const parts = [];
    let at = this.start, size = 0;
    for (const block of this.blocks) {
      const skip = Math.max(0, from - at);
      at += block.length;
      if (skip >= block.length) continue;
      if (size + block.length - skip > most) break;
      parts.push(block.subarray(skip));
      size += block.length - skip;
    }
    const bytes = new Uint8Array(size);
    size = 0;
    for (const part of parts) { bytes.set(part, size); size += part.length; }
    return bytes;
  }
}

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode.apply(null, bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

const WAIT = 0.15;        // s the server may hold a reply while speech goes on: the blocks wait as long in here
const WAIT_AT_END = 1;    // s, when nothing more is to be sent
const PATIENCE = 15000;   // ms without a reply after which a block is sent again; offsets make that harmless
const BACK_OFF = [250, 500, 1000, 2000, 4000]; // ms

// One press of Record. The server may lose it (a restart, a long time offline): the recording then goes on in a new part
// on the server, from the first byte whose text is not final yet. So bytes are kept until their text is final.
class Recording {
  constructor(rate, wishes, clockStart) {
    Object.assign(this, { rate, wishes, clockStart });
    this.kept = new Kept();
    this.sent = 0;       // the server has everything before this byte
    this.last = null;    // the length of the recording, once known
    this.failures = 0;
    this.lag = 0;
    this.begin(0);
  }

  begin(base) {
    this.part = { id: hex(crypto.getRandomValues(new Uint8Array(16))), base, revision: 0, lines: new Map() };
    this.sent = base;
  }

  push(bytes) {
    this.kept.push(bytes);
    this.wake?.();
  }

  end() {
    this.last = this.kept.end;
    this.wake?.();
  }

  seconds(bytes) { return bytes / 2 / this.rate; }

  get behind() { return this.seconds(this.kept.end - this.sent) + this.lag; }

  get duration() { return this.seconds(this.kept.end); }

  async run() {
    for (;;) {
      const reply = await this.post();
      if (reply.gone) this.restart();
      else if (reply.error && reply.received === undefined) throw new Sentence(reply.error);
      else if (this.take(reply)) return reply;
      if (this.last === null && this.sent === this.kept.end) await this.more();
    }
  }

  // Posts the next block until a reply comes, however long that takes.
  async post() {
    for (;;) {
      const audio = this.kept.read(this.sent, props.block_bytes);
      const all = this.sent + audio.length === this.kept.end;
      const ended = this.last !== null && all;
      const call = server.exchange({
        recording: this.part.id, rate: this.rate, offset: this.sent - this.part.base, audio: base64(audio),
        last: ended ? this.last - this.part.base : null, revision: this.part.revision,
        wait: ended ? WAIT_AT_END : all ? WAIT : 0, ...this.wishes,
      });
      // Gradio's call answers nothing where the network or the server failed.
      const reply = await Promise.race([call, sleep(PATIENCE)]).catch(() => undefined);
      const failed = !reply || reply.retry !== undefined;
      this.failures = failed ? this.failures + 1 : 0;
      this.waiting = reply?.retry || "";
      showProgress();
      if (!failed) return reply;
      await this.rest(BACK_OFF[Math.min(this.failures, BACK_OFF.length) - 1]);
    }
  }

  async rest(ms) { // cut short by the browser's word that the network is back
    let back;
    const online = new Promise((resolve) => { back = resolve; addEventListener("online", back, { once: true }); });
    await Promise.race([sleep(ms), online]);
    removeEventListener("online", back);
  }

  async more() { // waits for the next block; asks for text once a second even if none comes
    await Promise.race([new Promise((resolve) => { this.wake = resolve; }), sleep(1000)]);
    this.wake = null;
  }

  take(reply) {
    const { part } = this;
    this.sent = part.base + reply.received;
    this.lag = reply.lag;
    part.revision = reply.revision;
    for (const line of reply.utterances) showLine(part, line, this.clockStart + this.seconds(part.base));
    // Forgotten only now that the final text, which comes in the same reply, is on the page.
    part.safe = Math.max(part.safe || 0, reply.safe);
    this.kept.forget(part.base + part.safe);
    if (reply.error) throw new Sentence(reply.error);
    return reply.done;
  }

  restart() {
    for (const [, item] of this.part.lines) if (!item.final) item.node.remove();
    this.begin(this.part.base + (this.part.safe || 0));
  }
}

// ---------------------------------------------------------------------------------------------- the page

let state = { state: "loading", text: "Loading …" };
let recording = null;  // the one that is going on or finishing
let capture = null;    // its microphone, while it is open
let opening = false;
let trouble = "";      // a sentence that stays until the next press of Record
let paused = "";
let clock = 0;         // s recorded before, so that times go on over several recordings
let lock = null;

function write(node, text) { if (node.textContent !== text) node.textContent = text; }

const time = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

function showLine(part, line, from) {
  let item = part.lines.get(line.number);
  if (!item) {
    if (line.final && !line.settled && !line.error) return; // a sound that was no speech
    item = { node: document.createElement("p"), final: false };
    item.node.className = "utterance";
    const make = (tag, name, into) => {
      const child = into.appendChild(document.createElement(tag));
      child.className = name;
      return child;
    };
    item.stamp = make("time", "time", item.node);
    const words = make("span", "words", item.node);
    words.dir = "auto"; // Arabic and Persian run from the right
    item.settled = make("span", "settled", words);
    item.tentative = make("span", "tentative", words);
    part.lines.set(line.number, item);
    transcript.append(item.node);
  }
  const atEnd = transcript.scrollHeight - transcript.scrollTop - transcript.clientHeight < 80;
  const { stamp, settled, tentative } = item;
  write(stamp, time(from + line.start));
  stamp.title = `${(from + line.start).toFixed(2)} s – ${(from + line.end).toFixed(2)} s`;
  write(settled, line.error ? line.error : line.settled);
  write(tentative, line.tentative);
  item.node.classList.toggle("failed", Boolean(line.error));
  if (line.final && !line.settled && !line.error) item.node.remove();
  if (line.final && !item.final) write(find(".spoken"), line.settled); // read out once, when it will not change
  item.final = line.final;
  item.node.dataset.final = line.final;
  if (atEnd) transcript.scrollTop = transcript.scrollHeight;
}

function statusText() {
  if (state.state !== "ready" && !recording) return state.text;
  if (opening) return "Waiting for the microphone …";
  if (!recording) return trouble || obstacle() || "Ready";
  if (recording.waiting) return recording.waiting;
  if (recording.failures) return "Reconnecting";
  if (paused) return paused;
  return isListening() ? "Listening" : "Finishing";
}

function isListening() { return Boolean(capture) || (recording instanceof Followed && recording.last === null); }

function showProgress() {
  const ready = state.state === "ready" && !obstacle();
  const text = statusText();
  write(find("#status"), text);
  const kind = recording || opening ? (recording?.failures ? "waiting" : "live") : trouble || state.state === "failed" ||
    obstacle() ? "wrong" : state.state;
  root.dataset.state = kind;
  root.dataset.listening = isListening();
  write(button.querySelector(".name"), capture ? "Stop" : "Record");
  button.disabled = opening || (recording ? !capture : !ready);
  write(find("#lag"), recording ? `${recording.behind.toFixed(1)} s behind` : "");
  write(find("#clock"), recording ? time(clock + recording.duration) : "");
  const demo = state.note ? ` ${state.note}` : "";
  write(find("#model"), state.model ? `${state.model}.${demo}` : "");
}

async function record() {
  opening = true;
  trouble = paused = "";
  root.dataset.sha256 = root.dataset.bytes = root.dataset.serverSha256 = "";
  showProgress();
  const produced = [];
  const early = []; // blocks may come before open() returns
  let take = (bytes) => early.push(bytes);
  try {
    capture = await Capture.open((bytes, peak) => take(bytes, peak), (sentence, ended) => {
      if (ended) { trouble = sentence; stop(); } else paused = sentence;
      showProgress();
    });
    recording = new Recording(capture.rate, { ...root.wishes }, clock);
  } catch (error) {
    trouble = error instanceof Sentence ? error.message : BUSY;
    if (!(error instanceof Sentence)) console.error(error);
    opening = false;
    return showProgress();
  }
  opening = false;
  const mine = recording;
  take = (bytes, peak = 0) => {
    root.style.setProperty("--level", Math.min(1, Math.sqrt(peak)).toFixed(2));
    if (debug) produced.push(bytes);
    mine.push(bytes);
    if (mine.seconds(mine.kept.end - mine.sent) > props.backlog_seconds && capture) {
      trouble = `Recording was stopped: the server has not been reached for ${time(props.backlog_seconds)} minutes. ` +
        "What was said until now is kept in this page and is sent as soon as the server answers.";
      stop();
    }
  };
  early.forEach((bytes) => take(bytes));
  keepAwake();
  showProgress();
  // On a phone the button lies over the end of the page: the text is moved up to where it is seen whole.
  if (matchMedia("(max-width: 560px)").matches) find(".sheet").scrollIntoView({ block: "start" });
  try {
    const reply = await mine.run();
    if (debug) await prove(produced, reply);
  } catch (error) {
    trouble = error instanceof Sentence ? error.message : "The page failed; reload it. What is written stays until then.";
    if (!(error instanceof Sentence)) console.error(error);
    await stop();
  }
  clock += mine.duration;
  recording = null;
  showProgress();
}

async function stop() {
  const closing = capture;
  if (!closing || closing.closing) return;
  closing.closing = true;
  button.disabled = true;
  await closing.close();
  capture = null;
  root.style.setProperty("--level", 0);
  lock?.release().catch(() => {});
  lock = null;
  recording?.end();
  showProgress();
}

async function prove(produced, reply) { // what the microphone gave, hashed apart from everything that was sent
  // A recording that the server forgot was given to it again from `base` on, and that is what it has hashed.
  const bytes = new Uint8Array(await new Blob(produced).arrayBuffer()).subarray(recording.part.base);
  root.produced = bytes;
  root.dataset.bytes = bytes.length;
  root.dataset.rate = recording.rate;
  root.dataset.serverSha256 = reply.sha256;
  root.dataset.sha256 = hex(await crypto.subtle.digest("SHA-256", bytes));
}

async function keepAwake() { // a phone that sleeps takes the microphone away
  try { if (capture && !document.hidden) lock = await navigator.wakeLock?.request("screen"); } catch { /* low battery */ }
}

// Gradio's own recorder sends its sound itself and unnamed; only the text is fetched here, until all is there.
class Followed extends Recording {
  begin(base) {
    super.begin(base);
    this.part.id = props.stock_recording;
    this.seen = false;
  }

  get behind() { return this.lag; }

  get duration() { return this.heard || 0; }

  take(reply) {
    this.seen = true;
    this.heard = reply.seconds;
    const done = super.take(reply);
    this.sent = 0; // nothing is sent from here
    return done;
  }

  async more() { await sleep(100); }

  restart() { // nothing was sent yet, or the server has forgotten it
    if (this.seen) throw new Sentence("The server lost this recording. What is written stays; record again to go on.");
    if (this.last !== null) throw new Sentence("No sound came from the simple recorder. Try another browser.");
  }
}

async function followStock() {
  if (recording) return;
  trouble = "";
  const mine = recording = new Followed(16000, {}, clock);
  showProgress();
  try {
    await mine.run();
  } catch (error) {
    trouble = error instanceof Sentence ? error.message : "The page failed; reload it.";
  }
  clock += mine.duration;
  recording = null;
  showProgress();
}

async function endStock() {
  const mine = recording;
  await sleep(1500); // the last block of the recorder is still on its way
  if (mine instanceof Followed) mine.end();
  showProgress();
}

const actions = {
  record: () => capture ? stop() : record(),
  copy: async () => {
    const lines = [...transcript.querySelectorAll(".utterance:not(.failed)")];
    const text = lines.map((line) => line.querySelector(".settled").textContent + line.querySelector(".tentative").textContent);
    const copy = find("[data-do=copy]");
    try {
      await navigator.clipboard.writeText(text.join("\n"));
      write(copy, "Copied");
    } catch { // no clipboard without https: select it, so that one key does it
      getSelection().selectAllChildren(transcript);
      write(copy, "Selected");
    }
    setTimeout(() => write(copy, "Copy"), 1500);
  },
  clear: () => { // the sentence that is being spoken stays
    for (const line of transcript.querySelectorAll(".utterance")) if (line.dataset.final === "true") line.remove();
    write(find(".spoken"), "");
  },
};

element.addEventListener("click", (event) => actions[event.target.closest("[data-do]")?.dataset.do]?.());
document.addEventListener("pointerdown", () => { if (paused) capture?.resume(); });
document.addEventListener("visibilitychange", () => { keepAwake(); if (!document.hidden) capture?.resume(); });
root.addEventListener("stock-start", followStock);
root.addEventListener("stock-stop", endStock);
addEventListener("beforeunload", (event) => { if (recording) event.preventDefault(); });
setInterval(() => { if (recording) showProgress(); }, 250);

(async () => { // the server's state, until it is ready or has failed; again after it was lost
  let known = {};
  for (;;) {
    const reply = await Promise.race([server.server_state(known), sleep(PATIENCE)]).catch(() => undefined);
    if (reply) { state = known = reply; showProgress(); }
    if (reply && reply.state !== "loading") return;
    if (!reply) await sleep(1000);
  }
})();
showProgress();
