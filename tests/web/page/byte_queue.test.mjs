import assert from "node:assert/strict";
import { test } from "node:test";

import { ByteQueue, toBase64 } from "../../../qwen_asr/web/page/browser/live/byte_queue.js";
import { Random } from "./random.mjs";

function queueOf(...blocks) {
  const queue = new ByteQueue();
  for (const block of blocks) queue.push(Uint8Array.from(block));
  return queue;
}

test("bytes are read from any offset, up to a number", () => {
  const queue = queueOf([0, 1, 2], [3, 4], [5]);
  assert.equal(queue.end, 6);
  assert.deepEqual([...queue.read(0, 100)], [0, 1, 2, 3, 4, 5]);
  assert.deepEqual([...queue.read(1, 3)], [1, 2, 3]);
  assert.deepEqual([...queue.read(4, 1)], [4]);
  assert.deepEqual([...queue.read(6, 10)], []);
});

test("a block that is larger than a message is sent in parts", () => {
  assert.deepEqual([...queueOf([0, 1, 2, 3, 4]).read(0, 2)], [0, 1]);
});

test("only whole blocks before the offset are discarded, and offsets stay as they are", () => {
  const queue = queueOf([0, 1, 2], [3, 4], [5]);
  queue.discard(4);
  assert.equal(queue.start, 3);
  assert.equal(queue.end, 6);
  assert.deepEqual([...queue.read(4, 10)], [4, 5]);
  queue.discard(6);
  assert.equal(queue.start, 6);
  assert.deepEqual([...queue.read(6, 10)], []);
});

test("bytes that are not in the queue cannot be read as others", () => {
  const queue = queueOf([0, 1, 2], [3]);
  queue.discard(3);
  assert.throws(() => queue.read(2, 1), RangeError);
  assert.throws(() => queue.read(5, 1), RangeError);
});

test("what is read does not change with the queue", () => {
  const block = Uint8Array.from([1, 2, 3]);
  const queue = new ByteQueue();
  queue.push(block);
  const read = queue.read(0, 3);
  block.fill(9);
  assert.deepEqual([...read], [1, 2, 3]);
});

test("random pushes, reads and discards agree with one array", () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = new Random(seed);
    const queue = new ByteQueue();
    let all = [];
    for (let step = 0; step < 60; step++) {
      const block = random.bytes(random.integer(0, 20));
      queue.push(block);
      all = all.concat([...block]);
      const from = random.integer(queue.start, queue.end);
      const size = random.integer(0, 40);
      assert.deepEqual([...queue.read(from, size)], all.slice(from, from + size), `seed ${seed}`);
      const start = random.integer(0, queue.end);
      if (random.chance(0.3)) queue.discard(start);
      assert.ok(queue.start <= Math.max(start, from), `seed ${seed}`);
      assert.equal(queue.end, all.length);
    }
  }
});

test("base64 is that of Node for any length", () => {
  const random = new Random(1);
  for (const length of [0, 1, 2, 3, 0x7fff, 0x8000, 0x8001, 100_000]) {
    const bytes = random.bytes(length);
    assert.equal(toBase64(bytes), Buffer.from(bytes).toString("base64"));
  }
});
