// Runs on the browser's audio thread: cuts what the microphone gives into blocks of int16, every sample once, in order.

const BLOCK_SECONDS = 0.04; // short enough for a low delay, long enough to spare a phone's battery
const QUANTUM = 128;        // samples that the browser gives at a time

class Blocks extends AudioWorkletProcessor {
  constructor() {
    super();
    const quanta = Math.max(1, Math.round(sampleRate * BLOCK_SECONDS / QUANTUM));
    this.block = new Int16Array(quanta * QUANTUM);
    this.filled = 0;
    this.peak = 0;
    this.open = true;
    this.port.onmessage = () => { // the only message there is: the recording ends
      this.open = false;
      this.send();
      this.port.postMessage({ end: true });
    };
  }

  process(inputs) {
    const channel = inputs[0] && inputs[0][0]; // absent while nothing is connected; the node has mixed it to mono
    if (channel && this.open) {
      for (let i = 0; i < channel.length; i++) {
        const level = Math.abs(channel[i]);
        if (level > this.peak) this.peak = level;
        // Int16 microphones were divided by 32768. What is beyond the range is clipped, not wrapped around.
        this.block[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(channel[i] * 32768)));
        if (this.filled === this.block.length) this.send();
      }
    }
    return this.open;
  }

  send() {
    if (!this.filled) return;
    const bytes = this.block.slice(0, this.filled).buffer;
    this.port.postMessage({ bytes, peak: this.peak }, [bytes]);
    this.filled = 0;
    this.peak = 0;
  }
}

registerProcessor("qwen-asr-blocks", Blocks);
