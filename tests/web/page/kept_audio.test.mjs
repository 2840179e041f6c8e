import assert from "node:assert/strict";
import { test } from "node:test";

import { MemoryAudio } from "../../../qwen_asr/web/page/browser/kept_audio/audio_store.js";
import { KeptAudio } from "../../../qwen_asr/web/page/browser/kept_audio/kept_audio.js";
import { Random } from "./random.mjs";

const DAY_MS = 24 * 3600 * 1000;

function setting(options = {}) {
  const world = { store: new MemoryAudio(), time: 0, ids: 0, ...options };
  world.open = async (more = {}) => {
    const kept = new KeptAudio({
      store: world.store, transcript: "mine", owner: "", newId: () => `id${world.ids++}`, now: () => world.time,
      resample: async (blob, from, to) => new Blob([new Uint8Array(Math.round(blob.size / 2 * to / from) * 2)]),
      ...more,
    });
    await kept.restore();
    return kept;
  };
  return world;
}

async function samples(kept) { return [...new Uint8Array(await (await kept.toWav()).arrayBuffer()).subarray(44)]; }

function record(kept, blocks, rate = 8000) {
  kept.begin(rate);
  for (const block of blocks) kept.push(block);
  kept.end();
}

test("the WAV has every sample of all recordings, in order, and a header that says so", async () => {
  const random = new Random(1);
  const kept = await setting().open();
  assert.ok(!kept.hasAudio);
  const blocks = Array.from({ length: 90 }, () => random.bytes(random.integer(0, 1000) * 2));
  record(kept, blocks.slice(0, 50));
  record(kept, blocks.slice(50));
  const expected = blocks.flatMap((block) => [...block]);
  assert.deepEqual(await samples(kept), expected);
  const view = new DataView(await (await kept.toWav()).arrayBuffer());
  assert.equal(view.getUint32(24, true), 8000);
  assert.equal(view.getUint32(40, true), expected.length);
  assert.equal(view.getUint32(4, true), expected.length + 36);
  assert.equal(view.getUint16(22, true), 1);
  assert.ok(Math.abs(kept.seconds - expected.length / 16_000) < 1e-9);
});

test("a WAV of a recording that goes on has what was recorded so far", async () => {
  const kept = await setting().open();
  kept.begin(8000);
  kept.push(new Uint8Array([1, 2, 3, 4]));
  assert.deepEqual(await samples(kept), [1, 2, 3, 4]);
  kept.push(new Uint8Array([5, 6]));
  assert.deepEqual(await samples(kept), [1, 2, 3, 4, 5, 6]);
});

test("another rate is resampled to that of the first recording", async () => {
  const kept = await setting().open();
  record(kept, [new Uint8Array(1000)], 8000);
  record(kept, [new Uint8Array(3000)], 24_000);
  assert.equal((await samples(kept)).length, 2000);
});

test("Clear keeps the audio for Undo until the next Clear", async () => {
  const { store, open } = setting();
  const kept = await open();
  record(kept, [new Uint8Array([1, 1])]);
  kept.clear();
  assert.ok(!kept.hasAudio);
  record(kept, [new Uint8Array([2, 2])]);
  kept.undo();
  assert.deepEqual(await samples(kept), [1, 1, 2, 2]);
  kept.clear();
  record(kept, [new Uint8Array([3, 3])]);
  kept.clear();
  kept.undo();
  assert.deepEqual(await samples(kept), [3, 3]);
  assert.deepEqual((await store.all()).map(({ bytes }) => bytes), [2]);
});

test("Clear during a recording leaves what comes after it", async () => {
  const kept = await setting().open();
  kept.begin(8000);
  kept.push(new Uint8Array([1, 1]));
  kept.clear();
  kept.push(new Uint8Array([2, 2]));
  kept.end();
  assert.deepEqual(await samples(kept), [2, 2]);
});

test("it outlives a reload, unless it was cleared, and belongs to its tab", async () => {
  const world = setting();
  let kept = await world.open();
  record(kept, [new Uint8Array([1, 1])]);
  await samples(kept);
  kept = await world.open();
  assert.deepEqual(await samples(kept), [1, 1]);
  const other = await world.open({ transcript: "other" });
  assert.ok(!other.hasAudio);
  record(other, [new Uint8Array([9, 9])]);
  assert.deepEqual(await samples(kept), [1, 1]);
  kept.clear();
  kept = await world.open();
  kept.undo();
  assert.ok(!kept.hasAudio);
  assert.equal((await world.store.all()).length, 1); // that of the other tab
});

test("audio of a tab that was closed goes after a day", async () => {
  const world = setting();
  const kept = await world.open({ transcript: "other" });
  record(kept, [new Uint8Array([1, 1])]);
  await samples(kept);
  world.time = DAY_MS;
  await world.open();
  assert.equal((await world.store.all()).length, 1);
  world.time = DAY_MS + 1;
  await world.open();
  assert.equal((await world.store.all()).length, 0);
});

test("where the storage is full the recording goes on, and what is there stays", async (context) => {
  context.mock.method(console, "warn", () => {});
  const world = setting();
  const kept = await world.open();
  const { append } = world.store;
  kept.begin(2);
  kept.push(new Uint8Array([1, 2, 3, 4]));
  assert.deepEqual(await samples(kept), [1, 2, 3, 4]);
  world.store.append = async () => { throw new DOMException("full", "QuotaExceededError"); };
  kept.push(new Uint8Array([5, 5, 5, 5]));
  kept.push(new Uint8Array([6, 6, 6, 6]));
  assert.deepEqual(await samples(kept), [1, 2, 3, 4]);
  assert.match(kept.problem, /storage is full.*recording goes on/);
  world.store.append = append;
  kept.push(new Uint8Array([7, 7, 7, 7])); // after a gap: not kept
  kept.end();
  assert.deepEqual(await samples(kept), [1, 2, 3, 4]);
  record(kept, [new Uint8Array([8, 8, 8, 8])], 2);
  assert.equal(kept.problem, "");
  assert.deepEqual(await samples(kept), [1, 2, 3, 4, 8, 8, 8, 8]);
});

test("no more than the limit is kept", async () => {
  const kept = await setting().open({ maxSeconds: 2 });
  kept.begin(2);
  for (let i = 0; i < 4; i++) kept.push(new Uint8Array(4));
  kept.end();
  assert.equal((await samples(kept)).length, 8);
  assert.match(kept.problem, /at most/);
});

test("the audio of one user is not found by the next, and goes when they log out", async () => {
  const world = setting();
  const kept = await world.open({ owner: "ada" });
  const otherTab = await world.open({ owner: "ada", transcript: "other" });
  record(kept, [new Uint8Array([1, 1])]);
  record(otherTab, [new Uint8Array([2, 2])]);
  await samples(kept);
  await samples(otherTab);
  const grace = await world.open({ owner: "grace" });
  assert.ok(!grace.hasAudio);
  assert.equal((await world.store.all()).length, 1); // that of the other tab
  record(grace, [new Uint8Array([3, 3])]);
  await samples(grace);
  await otherTab.removeAll();
  assert.ok(!otherTab.hasAudio);
  assert.deepEqual((await world.store.all()).map(({ owner }) => owner), ["grace"]);
});
