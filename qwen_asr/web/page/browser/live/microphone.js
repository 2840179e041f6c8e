// The page: the button, the status, the transcript, and what happens when they are used. microphone.py starts it once
// in each tab.

import { openKeptAudio, saveWav } from "../kept_audio/keeping.js";
import { Capture, busy, findObstacle, insecure } from "../microphone/capture.js";
import { Interruptions } from "../microphone/interruptions.js";
import { MicrophonePanel } from "../microphone/microphone_panel.js";
import { pressesRecord } from "../microphone/shortcut.js";
import { messageFor } from "../shared/errors.js";
import { formatTime } from "../shared/format.js";
import { Settings, browserStorage } from "../shared/settings.js";
import { preferredLanguage, setLanguage, t, translate } from "../shared/text.js";
import { setText } from "../shared/transcript.js";
import { prepareInstall } from "./install.js";
import { Recording } from "./recording.js";
import { FallbackState, RecordingState } from "./recording_state.js";
import { SILENCE, adviceText, backlogMessage, pageState, statusText } from "./status.js";
import { changeText, paceText, timeLeft, timeWarning } from "./status.js";
import { TranscriptPanel } from "./transcript_panel.js";

const loginEnded = () => t(
  "Your login has ended. Log in again in another tab: nothing is lost, and the recording goes on here.",
);
const SERVER_TIMEOUT_MS = 15000;  // for the server's state
const SERVER_POLL_MS = 500;       // while it loads
const REFRESH_MS = 250;           // of the clock and the lag
const FALLBACK_POLL_MS = 100;
const FALLBACK_STOP_MS = 1500;    // the last block of Gradio's recorder is still on its way
const TYPED_MS = 1000;            // a context that is being typed is not used before this much rest
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
  interruptions = new Interruptions(); // of the recording that goes on, or the last one
  keptAudio = null;            // KeptAudio, once the browser's storage is open
  isRestored = false;

  // The arguments are those of Gradio's `js_on_load`: the component's element, its properties, its server functions.
  constructor(element, props, server) {
    this.element = element;
    this.root = element.closest("#microphone") || element;
    this.props = props;
    this.server = server;
    this.panel = new TranscriptPanel({
      element, props, server, newId,
      seconds: () => this.recordedSeconds + (this.recording?.state.duration ?? 0),
      isRecording: () => Boolean(this.recording), onChange: () => this.refresh(),
    });
    this.transcript = this.panel.transcript;
    this.restored = new Promise((resolve) => { this.onRestored = resolve; }); // the text that this browser has kept
    this.settings = new Settings(browserStorage(), document);
    this.microphonePanel = new MicrophonePanel(element, this.settings);
    // For tests: keeps all audio, and publishes how much there is and its hash as attributes of #microphone.
    this.keepsAudio = new URLSearchParams(location.search).has("debug");
  }

  start() {
    setLanguage(preferredLanguage(null, navigator.languages));
    translate(this.element);
    prepareInstall();
    const actions = {
      record: () => this.capture ? this.stop() : this.record(),
      ...this.panel.actions,
      wav: () => saveWav(this.keptAudio),
    };
    this.element.addEventListener("click", (event) => {
      const node = event.target.closest("[data-do]");
      if (node && node.getAttribute("aria-disabled") !== "true") actions[node.dataset.do](node);
    });
    document.addEventListener("keydown", (event) => {
      if (!pressesRecord(event)) return;
      event.preventDefault();
      // Record only where it can be seen; Stop from any tab.
      const button = this.find(".record");
      if (button.getAttribute("aria-disabled") !== "true" && (this.capture || button.offsetParent)) actions.record();
    });
    document.addEventListener("qwen-asr-cleared", () => { this.interruptions.last = null; });
    document.addEventListener("pointerdown", () => { if (this.interruption) this.capture?.resume(); });
    document.addEventListener("visibilitychange", () => {
      this.keepAwake();
      if (!document.hidden) this.capture?.resume();
    });
    this.root.addEventListener("fallback-start", () => this.followFallback());
    this.root.addEventListener("fallback-stop", () => this.endFallback());
    addEventListener("beforeunload", (event) => { if (this.recording) event.preventDefault(); });
    addEventListener("pagehide", () => { if (this.recording) this.leave(); });
    setInterval(() => {
      if (!this.recording) return;
      this.watchOptions();
      this.refresh();
    }, REFRESH_MS);
    // Gradio's recorder would meet the same obstacle without a message. A rule, because Gradio may add it later.
    if (findObstacle() === insecure()) {
      document.head.appendChild(document.createElement("style")).textContent = "#stock { display: none }";
    }
    this.microphonePanel.start();
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
      missing: this.interruptions.missing, notice: this.notice(recording),
    };
    const idle = this.serverState.state === "ready" && !view.obstacle;
    root.dataset.state = pageState(view);
    root.dataset.listening = Boolean(recording && recording.total === null);
    setText(this.find("#status"), statusText(view));
    setText(this.find("#advice"), adviceText(view, capture && this.microphone, performance.now()));
    setText(this.find(".record .name"), capture ? t("Stop") : t("Record"));
    this.find(".record").title = t("Alt+R on the keyboard");
    this.enable(".record", !this.opening && (recording ? capture && !capture.closing : idle));
    this.panel.refresh();
    const hasAudio = Boolean(this.keptAudio?.hasAudio);
    if (hasAudio) this.enable("[data-do=clear]", true);
    this.enable("[data-do=wav]", hasAudio);
    this.microphonePanel.showLevel(capture && this.microphone && !this.interruption, performance.now());
    this.microphonePanel.showKept(this.keptAudio);
    setText(this.find("#lag"), recording ? paceText(recording) : "");
    setText(this.find("#left"), recording ? timeLeft(recording.remaining) : "");
    setText(this.find("#clock"), recording ? formatTime(this.recordedSeconds + recording.duration) : "");
    const { model, note } = this.serverState;
    setText(this.find("#model"), model ? `${model}.${note ? ` ${note}` : ""}` : "");
  }

  // What the user should know beside the status and trouble with the microphone.
  notice(recording) {
    const kept = this.keptAudio?.problem ?? "";
    const { message } = this.interruptions;
    if (!recording) return [message, kept].filter(Boolean).join(" ");
    const { options, remaining } = recording;
    return [options.refused, changeText(options.coming), timeWarning(remaining), message, kept].filter(Boolean).join(" ");
  }

  // What the user has chosen for the speech to come.
  chosenOptions() { return { ...this.root.options, pause: this.settings.get("pauseSeconds") }; }

  // Gives options that have changed to the recording, but not each letter of a context.
  watchOptions() {
    const { state } = this.recording;
    if (!this.capture || this.capture.closing) return;
    const chosen = this.chosenOptions();
    const seen = JSON.stringify(chosen);
    if (seen !== this.seenOptions) Object.assign(this, { seenOptions: seen, seenOptionsAt: performance.now() });
    if (performance.now() - this.seenOptionsAt >= TYPED_MS) state.options.choose(chosen, state.queue.end);
  }

  // Not `disabled`: that would take the keyboard's focus away from the button.
  enable(selector, enabled) { this.find(selector).setAttribute("aria-disabled", !enabled); }

  // Until the server is ready or has failed; again after it was lost.
  async watchServer() {
    for (;;) {
      const call = this.server.server_state(null);
      const reply = await Promise.race([call, sleep(SERVER_TIMEOUT_MS)]).catch(() => undefined);
      if (reply) {
        await this.restore(reply.user);
        this.keptAudio ??= await openKeptAudio(reply.user ?? "", newId, () => this.refresh());
        this.serverState = reply;
        this.refresh();
        if (reply.state !== "loading") return;
      }
      await sleep(SERVER_POLL_MS);
    }
  }

  // Shows, once, the text that this browser has kept for the user.
  async restore(user) {
    if (this.isRestored) return;
    this.isRestored = true;
    this.recordedSeconds = await this.panel.restore(user);
    this.onRestored();
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
        constraints: this.microphonePanel.constraints(),
        onBlock: (bytes, peak) => onBlock(bytes, peak),
        onInterruption: (message) => {
          this.interruption = message;
          this.interruptions.take(Boolean(message), this.recording?.state.duration ?? 0, Date.now());
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
    this.microphonePanel.opened(this.capture);
    this.microphonePanel.resetLevel();
    if (this.microphonePanel.keepsAudio) this.keptAudio?.begin(this.capture.rate);
    const state = new RecordingState({
      ...this.callbacks(), rate: this.capture.rate, options: this.chosenOptions(),
      maxBlockBytes: this.props.block_bytes, newId,
    });
    const recording = this.createRecording(state);
    const now = performance.now();
    this.microphone = { startedAt: now, loudAt: now };
    const { microphone } = this;
    const kept = [];
    onBlock = (bytes, peak = 0) => {
      if (this.keepsAudio) kept.push(bytes);
      this.keptAudio?.push(bytes);
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
    this.panel.endRecording();
    this.refresh();
  }

  takeBlock(recording, microphone, bytes, peak) {
    const { state } = recording;
    const now = performance.now();
    if (state.queue.end === 0) microphone.startedAt = now - state.seconds(bytes.length) * 1000;
    if (peak >= SILENCE) microphone.loudAt = now;
    this.root.style.setProperty("--level", Math.min(1, Math.sqrt(peak)).toFixed(2));
    this.microphonePanel.take(bytes, now);
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
    this.keptAudio?.end();
    this.root.style.setProperty("--level", 0);
    this.wakeLock?.release().catch(() => {});
    this.wakeLock = null;
    this.recording?.end();
    this.refresh();
  }

  // Times continue after the text that is there. Where there is none they start at zero.
  beginTranscript() {
    this.problem = this.interruption = "";
    this.interruptions = new Interruptions();
    this.panel.beginRecording();
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
    const lock = await navigator.wakeLock?.request("screen").catch(() => null); // refused when the battery is low
    if (this.capture) this.wakeLock = lock;
    else lock?.release().catch(() => {}); // Stop was pressed meanwhile
  }

  // Gradio's recorder sends its audio itself; the page fetches the text.
  async followFallback() {
    await this.restored;
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
}

export function start(element, props, server) { new MicrophonePage(element, props, server).start(); }
