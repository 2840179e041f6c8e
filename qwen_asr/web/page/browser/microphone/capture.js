// The microphone: blocks of int16 at its native rate, and a clear message for everything that can be wrong with it.

import { UserError } from "../shared/errors.js";
import { t } from "../shared/text.js";

export const insecure = () => t(
  "Browsers allow the microphone only on pages that came over https://. Open the https:// address of this page" +
  " (the server prints it; it has one when started with --generate-self-signed-cert).",
);
const denied = () => t(
  "The browser does not let this page use the microphone. Allow it in the site settings beside the address, then press Record.",
);
const missing = () => t("No microphone was found. Plug one in or switch it on, then press Record.");
export const busy = () => t(
  "The microphone could not be opened: another program may be using it. Close that program, then press Record.",
);
const old = () => t("This browser cannot record here. Use the simple recorder below.");
const blocked = () => t(
  "A content security policy blocks the recorder (it needs blob: in script-src). Use the simple recorder below.",
);
const unplugged = () => t("The microphone was unplugged. The text so far is below; plug it in again, then press Record.");
const paused = () => t("The device has paused the microphone. Tap the page to continue.");
const muted = () => t("Paused by a call, a locked screen or another app. The recording goes on by itself afterwards.");

const STOP_DELAY_MS = 200;     // the last sound is still in the browser's buffers when Stop is pressed
const WORKLET_TIMEOUT_MS = 1000; // a suspended audio thread may never answer
const RESUME_TIMEOUT_MS = 500;

// Why this browser cannot record, or "".
export function findObstacle() {
  if (!window.isSecureContext) return insecure();
  return navigator.mediaDevices?.getUserMedia && window.AudioWorkletNode ? "" : old();
}

// The message for an error of getUserMedia.
export function microphoneMessage(error) {
  if (error.name === "NotAllowedError" || error.name === "SecurityError") return denied();
  if (error.name === "NotFoundError" || error.name === "OverconstrainedError") return missing();
  return busy();
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Capture {
  // `workletSource`: the text of worklet.js. `onBlock(bytes, peak)`: a Uint8Array of int16 and its peak from 0 to 1.
  // `onInterruption(message)`: the device pauses the microphone; "" when it goes on. `onUnplugged(message)`: it ended.
  // `constraints`: what to ask the browser for, as `audioConstraints` makes it. Where the microphone that they name is
  // gone, the browser's default is opened, and `fellBack` is true. Rejects with UserError if none is available.
  static async open({ workletSource, constraints, onBlock, onInterruption, onUnplugged }) {
    const obstacle = findObstacle();
    if (obstacle) throw new UserError(obstacle);
    const capture = new Capture();
    await capture.#openStream(constraints).catch((error) => { throw new UserError(microphoneMessage(error)); });
    try {
      await capture.#connect(workletSource, onBlock);
    } catch (error) {
      capture.#release();
      throw error;
    }
    capture.track.onended = () => onUnplugged(unplugged());
    capture.#watch(onInterruption);
    return capture;
  }

  get track() { return this.stream.getAudioTracks()[0]; }

  async #openStream(constraints) {
    this.fellBack = false;
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: constraints });
    } catch (error) {
      if (!constraints.deviceId || !["OverconstrainedError", "NotFoundError"].includes(error.name)) throw error;
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: { ...constraints, deviceId: undefined } });
      this.fellBack = true;
    }
  }

  // A call or another app mutes the track, and iOS interrupts the context too. There only a touch may resume it; a
  // track comes back by itself.
  #watch(onInterruption) {
    const { context, track } = this;
    let away = track.muted;
    const report = () => {
      if (context.state === "closed") return;
      if (away) onInterruption(muted());
      else onInterruption(context.state === "running" ? "" : paused());
    };
    track.onmute = () => {
      away = true;
      report();
    };
    track.onunmute = async () => {
      away = false;
      await this.resume();
      report();
    };
    context.onstatechange = report;
    if (away) report();
  }

  // Has to be called from a touch or a click where the device has paused the microphone.
  async resume() {
    if (this.context.state === "running") return;
    await Promise.race([this.context.resume().catch(() => {}), sleep(RESUME_TIMEOUT_MS)]);
  }

  // Resolves once the last block was given to `onBlock`.
  async close() {
    this.closing = true;
    await sleep(STOP_DELAY_MS);
    this.node.port.postMessage("end");
    await Promise.race([this.ended, sleep(WORKLET_TIMEOUT_MS)]);
    this.#release();
  }

  async #connect(workletSource, onBlock) {
    // At the microphone's own rate where the browser reports and supports it: no resampling in the browser, and no more
    // bytes than there is sound. Firefox does not connect two rates; there the context's own rate is used.
    const rate = this.track.getSettings().sampleRate;
    try {
      this.context = new AudioContext(rate ? { sampleRate: rate } : {});
      this.source = this.context.createMediaStreamSource(this.stream);
    } catch {
      this.context?.close();
      this.context = new AudioContext();
      this.source = this.context.createMediaStreamSource(this.stream);
    }
    this.rate = this.context.sampleRate;
    const url = URL.createObjectURL(new Blob([workletSource], { type: "text/javascript" }));
    try {
      await this.context.audioWorklet.addModule(url);
    } catch {
      throw new UserError(blocked());
    } finally {
      URL.revokeObjectURL(url);
    }
    this.node = new AudioWorkletNode(this.context, "qwen-asr-blocks", {
      channelCount: 1, channelCountMode: "explicit", // the browser mixes stereo to mono
    });
    this.ended = new Promise((resolve) => {
      this.node.port.onmessage = ({ data }) => data.end ? resolve() : onBlock(new Uint8Array(data.bytes), data.peak);
    });
    // Some browsers run a node only while it leads to the loudspeakers; this one is silent there.
    this.source.connect(this.node).connect(this.context.destination);
    await this.resume();
  }

  #release() {
    for (const track of this.stream.getTracks()) {
      track.onended = track.onmute = track.onunmute = null;
      track.stop();
    }
    if (!this.context) return;
    this.context.onstatechange = null;
    this.context.close().catch(() => {});
  }
}
