// The page's microphone and its text. Runs once per tab, as Gradio's js_on_load, with `element`, `props`, `server`.
// Three files, put together in this order: capture.js (the microphone), recording.js (bytes to the server, text back), and
// microphone.js (the page around them). What all need is here at the top.
// All text goes into the page through textContent: nothing that is said or recognized can become markup.

const find = (selector) => element.querySelector(selector);
const button = find("[data-do=record]");
const transcript = find("#transcript");
const debug = new URLSearchParams(location.search).has("debug"); // keeps every byte to hash it, for the tests
const root = element.closest("#microphone") || element;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const hex = (bytes) => Array.from(new Uint8Array(bytes), (b) => b.toString(16).padStart(2, "0")).join("");

class Sentence extends Error {} // an error that is a sentence for people

// The microphone: int16 blocks at its native rate, and a plain sentence for everything that can be wrong with it.

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
