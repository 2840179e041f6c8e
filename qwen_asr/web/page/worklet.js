// Runs on the browser's audio thread: makes int16 blocks of what the microphone gives, every sample once, in order.
class Blocks extends AudioWorkletProcessor {
  constructor() {
    super();
    // About 40 ms: small enough to be quick, large enough that a phone does not spend its battery on messages.
    this.block = new Int16Array(Math.max(128, Math.round(sampleRate * 0.04 / 128) * 128));
    this.filled = 0;
    this.peak = 0;
    this.open = true;
    this.port.onmessage = () => { // the one message there is: the recording ends
      this.open = false;
      this.send();
      this.port.postMessage({ end: true });
    };
  }

  process(inputs) {
    const channel = inputs[0] && inputs[0][0]; // absent while nothing is connected; the node mixes to mono before
    if (channel && this.open) {
      for (let i = 0; i < channel.length; i++) {
        const level = Math.abs(channel[i]);
        if (level > this.peak) this.peak = level;
        // 32768 is what int16 microphones were divided by; beyond it is clipped, not wrapped round.
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
