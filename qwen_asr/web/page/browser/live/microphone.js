// The page: the button, the status, the transcript, and what happens when they are used. microphone.py starts it once
// in each tab.

import { messageFor } from "../shared/errors.js";
import { formatTime } from "../shared/format.js";
import { Settings, browserStorage } from "../shared/settings.js";
import { followLanguage, t } from "../shared/text.js";
import { Transcript, setText } from "../shared/transcript.js";
import { BigScreen } from "./big_screen.js";
import { Capture, busy, findObstacle, insecure } from "./capture.js";
import { Recording } from "./recording.js";
import { FallbackState, RecordingState } from "./recording_state.js";
import { SILENCE, adviceText, backlogMessage, pageState, statusText } from "./status.js";

const loginEnded = () => t(
  "Your login has ended. Log in again in another tab: nothing is lost, and the recording goes on here.",
);
const SERVER_TIMEOUT_MS = 15000;  // for the server's state
const SERVER_POLL_MS = 500;       // while it loads
const REFRESH_MS = 250;           // of the clock and the lag
const FALLBACK_POLL_MS = 100;
const FALLBACK_STOP_MS = 1500;    // the last block of Gradio's recorder is still on its way
const COPIED_MS = 1500;
const SMALL_SCREEN = "(max-width: 560px), (max-height: 480px)";
const failed = () => t("The page failed; reload it. The text stays until then.");

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const toHex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
const newId = () => toHex(crypto.getRandomValues(new Uint8Array(16)));

// Resolves after `ms`, or as soon as the browser is online again.
async function backOff(ms) {
  let returned;
  const online = new Promise((resolve) => { returned = resolve; });
  addEventListener("online", returned);
  await Promise.race([sleep(ms), online]);
  removeEventListener("online", returned);
}

class MicrophonePage {
  recording = null;            // the Recording that is going on or finishing
  capture = null;              // its microphone, while that is open
  microphone = null;           // {startedAt, loudAt} in ms, from the microphone's first sound on
  opening = false;
  problem = "";                // see status.js for this and the next ones
  interruption = "";
  serverState = { state: "loading", text: "Loading …" };
  recordedSeconds = 0;         // in earlier recordings, so that times continue
  wakeLock = null;

  // The arguments are those of Gradio's `js_on_load`: the component's element, its properties, its server functions.
  constructor(element, props, server) {
    this.element = element;
    this.root = element.closest("#microphone") || element;
    this.props = props;
    this.server = server;
    this.transcript = new Transcript(this.find("#transcript"), this.find(".announcer"));
    // For tests: keeps all audio, and publishes how much there is and its hash as attributes of #microphone.
    this.keepsAudio = new URLSearchParams(location.search).has("debug");
  }

  start() {
    const settings = new Settings(browserStorage(), document);
    const bigScreen = new BigScreen(this.element);
    bigScreen.listen();
    followLanguage(this.element, settings, navigator.languages, () => this.refresh());
    const actions = {
      record: () => this.capture ? this.stop() : this.record(),
      copy: () => this.copy(),
      clear: () => this.clear(),
      bigScreen: () => bigScreen.open(),
    };
    this.element.addEventListener("click", (event) => {
      const node = event.target.closest("[data-do]");
      if (node && node.getAttribute("aria-disabled") !== "true") actions[node.dataset.do]();
    });
    document.addEventListener("pointerdown", () => { if (this.interruption) this.capture?.resume(); });
    document.addEventListener("visibilitychange", () => {
      this.keepAwake();
      if (!document.hidden) this.capture?.resume();
    });
    this.root.addEventListener("fallback-start", () => this.followFallback());
    this.root.addEventListener("fallback-stop", () => this.endFallback());
    addEventListener("beforeunload", (event) => { if (this.recording) event.preventDefault(); });
    addEventListener("pagehide", () => { if (this.recording) this.leave(); });
    setInterval(() => { if (this.recording) this.refresh(); }, REFRESH_MS);
    // Gradio's recorder would meet the same obstacle without a message. A rule, because Gradio may add it later.
    if (findObstacle() === insecure()) {
      document.head.appendChild(document.createElement("style")).textContent = "#stock { display: none }";
    }
    this.watchServer();
    this.refresh();
  }

  find(selector) { return this.element.querySelector(selector); }

  // Puts the state of the page into its elements.
  refresh() {
    const { capture, root } = this;
    const recording = this.recording?.state ?? null;
    const view = {
      server: this.serverState, recording, opening: this.opening, problem: this.problem, obstacle: findObstacle(),
      interruption: this.interruption, fallback: recording instanceof FallbackState,
    };
    const idle = this.serverState.state === "ready" && !view.obstacle;
    root.dataset.state = pageState(view);
    root.dataset.listening = Boolean(recording && recording.total === null);
    setText(this.find("#status"), statusText(view));
    setText(this.find("#advice"), adviceText(view, capture && this.microphone, performance.now()));
    setText(this.find(".record .name"), capture ? t("Stop") : t("Record"));
    this.enable(".record", !this.opening && (recording ? capture && !capture.closing : idle));
    this.enable("[data-do=copy]", this.transcript.hasText);
    this.enable("[data-do=clear]", !this.transcript.isEmpty);
    setText(this.find("#lag"), recording ? t("{seconds} s behind", { seconds: recording.behind.toFixed(1) }) : "");
    setText(this.find("#clock"), recording ? formatTime(this.recordedSeconds + recording.duration) : "");
    const { model, note } = this.serverState;
    setText(this.find("#model"), model ? `${t(model)}${t(".")}${note ? ` ${t(note)}` : ""}` : "");
  }

  // Not `disabled`: that would take the keyboard's focus away from the button.
  enable(selector, enabled) { this.find(selector).setAttribute("aria-disabled", !enabled); }

  // Until the server is ready or has failed; again after it was lost.
  async watchServer() {
    for (;;) {
      const call = this.server.server_state(null);
      const reply = await Promise.race([call, sleep(SERVER_TIMEOUT_MS)]).catch(() => undefined);
      if (reply) {
        this.serverState = reply;
        this.refresh();
        if (reply.state !== "loading") return;
      }
      await sleep(SERVER_POLL_MS);
    }
  }

  // Tells the server that this page goes away, so that its place is soon free. A browser cancels the requests of such a
  // page unless they are marked with `keepalive`. Gradio's call has no way to mark them, but calls `fetch` at once.
  leave() {
    const { fetch } = window;
    window.fetch = (address, options) => fetch(address, { ...options, keepalive: true });
    this.server.leave(null).catch(() => {});
    window.fetch = fetch;
  }

  async record() {
    const { root } = this;
    this.opening = true;
    this.beginTranscript();
    for (const key of ["bytes", "rate", "seconds", "serverSha256", "sha256"]) delete root.dataset[key];
    this.refresh();
    const early = []; // blocks may come before `open` resolves
    let onBlock = (bytes) => early.push(bytes);
    try {
      this.capture = await Capture.open({
        workletSource: this.props.worklet,
        onBlock: (bytes, peak) => onBlock(bytes, peak),
        onInterruption: (message) => {
          this.interruption = message;
          this.refresh();
        },
        onUnplugged: (message) => this.stop(message),
      });
    } catch (error) {
      this.opening = false;
      this.problem = messageFor(error, busy());
      this.refresh();
      return;
    }
    this.opening = false;
    const state = new RecordingState({
      ...this.callbacks(), rate: this.capture.rate, options: { ...root.options },
      maxBlockBytes: this.props.block_bytes, newId,
    });
    const recording = this.createRecording(state);
    const now = performance.now();
    this.microphone = { startedAt: now, loudAt: now };
    const { microphone } = this;
    const kept = [];
    onBlock = (bytes, peak = 0) => {
      if (this.keepsAudio) kept.push(bytes);
      this.takeBlock(recording, microphone, bytes, peak);
      if (this.keepsAudio) root.dataset.seconds = state.duration;
    };
    early.forEach((bytes) => onBlock(bytes));
    this.keepAwake();
    this.refresh();
    // On a phone the button lies over the end of the page: scroll until the whole transcript is visible.
    if (matchMedia(SMALL_SCREEN).matches) this.find(".panel").scrollIntoView({ block: "start" });
    await this.run(recording, (reply) => this.keepsAudio && this.publishHashes(kept, state, reply));
  }

  // How the state of a recording reaches the page.
  callbacks() {
    const offset = this.recordedSeconds;
    return {
      onLines: (part, lines) => {
        for (const line of lines) this.transcript.show(part, line, offset + part.startSeconds);
      },
      onPartLost: (part) => this.transcript.removeTentative(part),
      onTimeLimit: (message) => { if (!this.capture?.closing) this.stop(message); },
    };
  }

  createRecording(state, settings = {}) {
    this.recording = new Recording({
      state, sleep, backOff, exchange: (message) => this.exchange(message), onProgress: () => this.refresh(),
      ...settings,
    });
    return this.recording;
  }

  // The server's reply. Gradio's call resolves to undefined for every failure, so the login is asked for separately.
  async exchange(message) {
    const reply = await this.server.exchange(message);
    if (reply || !this.props.has_login) return reply;
    const login = await fetch("login", { method: "HEAD", redirect: "manual" }); // leads to the page while logged in
    return login.status === 200 ? { retry: loginEnded() } : undefined;
  }

  // Runs a recording to its end. `onDone(reply)` gets the server's last reply.
  async run(recording, onDone = () => {}) {
    this.refresh();
    try {
      await onDone(await recording.run());
    } catch (error) {
      await this.stop(messageFor(error, failed()));
    }
    this.recordedSeconds += recording.state.duration;
    this.recording = null;
    this.refresh();
  }

  takeBlock(recording, microphone, bytes, peak) {
    const { state } = recording;
    const now = performance.now();
    if (state.queue.end === 0) microphone.startedAt = now - state.seconds(bytes.length) * 1000;
    if (peak >= SILENCE) microphone.loudAt = now;
    this.root.style.setProperty("--level", Math.min(1, Math.sqrt(peak)).toFixed(2));
    recording.push(bytes);
    const maxSeconds = this.props.backlog_seconds;
    if (state.backlog > maxSeconds && this.capture && !this.capture.closing) {
      this.stop(backlogMessage(state, maxSeconds));
    }
  }

  // Closes the microphone. The recording goes on until all text is here. `problem`: why, unless the user did it.
  async stop(problem = "") {
    if (problem) this.problem = problem;
    const { capture } = this;
    if (!capture || capture.closing) return;
    const closed = capture.close();
    this.refresh();
    await closed;
    this.capture = this.microphone = null;
    this.root.style.setProperty("--level", 0);
    this.wakeLock?.release().catch(() => {});
    this.wakeLock = null;
    this.recording?.end();
    this.refresh();
  }

  // Times continue after the text that is there. Where there is none they start at zero.
  beginTranscript() {
    this.problem = this.interruption = "";
    if (this.transcript.isEmpty) this.recordedSeconds = 0;
  }

  // Hashes what the microphone gave, independently of what was sent. The server hashes the last part.
  async publishHashes(kept, state, reply) {
    const bytes = new Uint8Array(await new Blob(kept).arrayBuffer()).subarray(state.part.base);
    const { root } = this;
    root.produced = bytes;
    root.dataset.bytes = bytes.length;
    root.dataset.rate = state.rate;
    root.dataset.serverSha256 = reply.sha256;
    root.dataset.sha256 = toHex(await crypto.subtle.digest("SHA-256", bytes));
  }

  // A phone that sleeps takes the microphone away.
  async keepAwake() {
    if (!this.capture || document.hidden) return;
    this.wakeLock = await navigator.wakeLock?.request("screen").catch(() => null); // refused when the battery is low
  }

  // Gradio's recorder sends its audio itself; the page fetches the text.
  async followFallback() {
    if (this.recording) return;
    this.beginTranscript();
    const id = this.props.stock_recording;
    const state = new FallbackState({ ...this.callbacks(), id, now: () => performance.now() });
    await this.run(this.createRecording(state, { pollMs: FALLBACK_POLL_MS }));
  }

  async endFallback() {
    const { recording } = this;
    await sleep(FALLBACK_STOP_MS);
    if (recording?.state instanceof FallbackState) recording.end();
    this.refresh();
  }

  async copy() {
    const button = this.find("[data-do=copy]");
    try {
      await navigator.clipboard.writeText(this.transcript.text);
      setText(button, t("Copied"));
    } catch { // there is no clipboard without https: select the text, so that one key copies it
      getSelection().selectAllChildren(this.transcript.container);
      setText(button, t("Selected"));
    }
    setTimeout(() => setText(button, t("Copy")), COPIED_MS);
  }

  clear() {
    this.transcript.clear(Boolean(this.recording));
    this.refresh();
  }
}

export function start(element, props, server) { new MicrophonePage(element, props, server).start(); }
