// The page: the button, the status, the transcript, and what happens to them.

let state = { state: "loading", text: "Loading …" };
let recording = null;  // the one that is going on or finishing
let capture = null;    // its microphone, while it is open
let opening = false;
let trouble = "";      // a sentence that stays until the next press of Record
let paused = "";
let clock = 0;         // s recorded before, so that times go on over several recordings
let lock = null;
let begun = 0;         // ms on the page's clock, when the microphone's first sound began
let loud = 0;          // ms, when it was last more than silence

const SILENCE = 0.002; // a peak that even a quiet room exceeds
const MUTED_AFTER = 6000; // ms

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
  if (recording.queued) return recording.queued === 1 ? "Waiting: you are next" : `Waiting: ${recording.queued - 1} before you`;
  if (paused) return paused;
  return isListening() ? "Listening" : "Finishing";
}

// What a person should know beside the status.
function advice(status) {
  const now = performance.now();
  if (status === "Reconnecting" && !(recording instanceof Followed)) {
    return capture ? "Keep speaking: nothing is lost." : "Keep this page open: nothing is lost.";
  }
  if (recording?.queued) {
    return capture ? "All places are taken. What you say is kept here and is sent as soon as one is free."
      : "Keep this page open: what you said is sent as soon as a place is free.";
  }
  if (status !== "Listening" || !capture) return "";
  const elapsed = (now - begun) / 1000;
  if (elapsed - recording.duration > 2 + elapsed / 1000) { // two clocks: over hours they differ by a little
    return "The browser has delivered less sound than time has passed, so words may be missing.";
  }
  return now - loud > MUTED_AFTER ? "No sound from the microphone: is it muted?" : "";
}

// Not `disabled`: that would take the keyboard's focus away from the button.
function allow(node, allowed) { node.setAttribute("aria-disabled", !allowed); }

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
  allow(button, !opening && (recording ? capture && !capture.closing : ready));
  allow(find("[data-do=copy]"), find(".utterance:not(.failed)"));
  allow(find("[data-do=clear]"), find(".utterance"));
  write(find("#advice"), advice(text));
  write(find("#lag"), recording ? `${recording.behind.toFixed(1)} s behind` : "");
  write(find("#clock"), recording ? time(clock + recording.duration) : "");
  const demo = state.note ? ` ${state.note}` : "";
  write(find("#model"), state.model ? `${state.model}.${demo}` : "");
}

async function record() {
  opening = true;
  startClock();
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
  begun = loud = performance.now();
  take = (bytes, peak = 0) => {
    const now = performance.now();
    if (mine.kept.end === 0) begun = now - mine.seconds(bytes.length) * 1000;
    if (peak >= SILENCE) loud = now;
    root.style.setProperty("--level", Math.min(1, Math.sqrt(peak)).toFixed(2));
    if (debug) produced.push(bytes);
    mine.push(bytes);
    if (mine.seconds(mine.kept.end - mine.sent) > props.backlog_seconds && capture) {
      trouble = `Recording was stopped: the server has ${mine.queued ? "had no place" : "not been reached"} for ` +
        `${time(props.backlog_seconds)} minutes. What was said until now is kept in this page and is sent as soon as ` +
        `the server ${mine.queued ? "has one" : "answers"}.`;
      stop();
    }
  };
  early.forEach((bytes) => take(bytes));
  keepAwake();
  showProgress();
  // On a phone the button lies over the end of the page: the text is moved up to where it is seen whole.
  if (matchMedia("(max-width: 560px), (max-height: 480px)").matches) find(".sheet").scrollIntoView({ block: "start" });
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
  showProgress();
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

// Times go on from the text above. Where there is none they start anew.
function startClock() { if (!find(".utterance")) clock = 0; }

// Gradio's own recorder sends its sound itself and unnamed; only the text is fetched here, until all is there.
const FIRST_SOUND = 10000; // ms from its button until the first block must be here; a slow device takes seconds

class Followed extends Recording {
  begin(base) {
    super.begin(base);
    this.part.id = props.stock_recording;
    this.seen = false;
    this.begun ??= performance.now();
  }

  get behind() { return this.lag; }

  get duration() { return this.heard || 0; }

  take(reply) {
    if (reply.done && !reply.error && this.last === null) { // the recording before this one, until new sound comes
      this.restart();
      return false;
    }
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
    if (performance.now() - this.begun > FIRST_SOUND) {
      throw new Sentence("No sound came from the simple recorder. Stop it there, allow the microphone, and record again.");
    }
  }
}

async function followStock() {
  if (recording) return;
  trouble = "";
  startClock();
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

// It would find the same obstacle, and say nothing of it. A rule, because Gradio may put it into the page later.
if (obstacle() === INSECURE) {
  document.head.appendChild(document.createElement("style")).textContent = "#stock { display: none }";
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
    for (const line of transcript.querySelectorAll(".utterance")) if (!recording || line.dataset.final === "true") line.remove();
    write(find(".spoken"), "");
    showProgress();
  },
};

element.addEventListener("click", (event) => {
  const node = event.target.closest("[data-do]");
  if (node && node.getAttribute("aria-disabled") !== "true") actions[node.dataset.do]();
});
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
