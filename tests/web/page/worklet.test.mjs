import assert from "node:assert/strict";
import { test } from "node:test";

import { Random } from "./random.mjs";

// What the browser's audio thread gives a worklet.
let Blocks;
globalThis.AudioWorkletProcessor = class {
  constructor() {
    this.sent = [];
    this.port = { postMessage: (message) => this.sent.push(message) };
  }
};
globalThis.registerProcessor = (name, processor) => { Blocks = processor; };
globalThis.sampleRate = 48_000;
await import("../../../qwen_asr/web/page/browser/microphone/worklet.js");

const samplesOf = (node) => node.sent.filter(({ bytes }) => bytes).flatMap(({ bytes }) => [...new Int16Array(bytes)]);

test("every sample is sent once, in order, as int16", () => {
  const random = new Random(3);
  const node = new Blocks();
  const expected = [];
  for (let quantum = 0; quantum < 100; quantum++) {
    const samples = Float32Array.from({ length: 128 }, () => random.next() * 2 - 1);
    expected.push(...samples.map((sample) => Math.min(32767, Math.round(sample * 32768))));
    assert.equal(node.process([[samples]]), true);
  }
  node.port.onmessage();
  assert.deepEqual(samplesOf(node), expected);
  assert.deepEqual(node.sent.at(-1), { end: true });
  assert.equal(node.process([[new Float32Array(128)]]), false); // the node may be freed
  assert.deepEqual(node.sent.at(-1), { end: true });
});

test("blocks are about 40 ms long and have their peak", () => {
  const node = new Blocks();
  const loud = new Float32Array(128);
  loud[5] = -0.5;
  for (let quantum = 0; quantum < 30; quantum++) node.process([[quantum === 3 ? loud : new Float32Array(128)]]);
  assert.deepEqual(node.sent.map(({ bytes, peak }) => [bytes.byteLength, peak]), [[15 * 256, 0.5], [15 * 256, 0]]);
});

test("samples beyond the range are clipped, not wrapped around", () => {
  const node = new Blocks();
  node.process([[Float32Array.from([1, -1, 1.5, -1.5])]]);
  node.port.onmessage();
  assert.deepEqual(samplesOf(node), [32767, -32768, 32767, -32768]);
});

test("a node without input sends nothing", () => {
  const node = new Blocks();
  assert.equal(node.process([]), true);
  assert.equal(node.process([[]]), true);
  node.port.onmessage();
  assert.deepEqual(node.sent, [{ end: true }]);
});
