import assert from "node:assert/strict";
import { test } from "node:test";

import { UserError } from "../../../qwen_asr/web/page/browser/shared/errors.js";
import { Recording, backOffMs } from "../../../qwen_asr/web/page/browser/live/recording.js";
import { RecordingState } from "../../../qwen_asr/web/page/browser/live/recording_state.js";
import { Random } from "./random.mjs";
import { ServerDouble } from "./server_double.mjs";

const never = () => new Promise(() => {});
const nextTick = () => new Promise((resolve) => setImmediate(resolve));

function newRecording(settings = {}) {
  let parts = 0;
  const state = new RecordingState({
    rate: 16_000, options: {}, maxBlockBytes: 400, newId: () => `part-${++parts}`,
    onLines: () => {}, onPartLost: () => {}, onTimeLimit: () => {},
  });
  return new Recording({ state, sleep: never, backOff: async () => {}, onProgress: () => {}, ...settings });
}

const reply = (received, values = {}) => ({
  received, safe: 0, revision: 0, utterances: [], lag: 0, done: false, error: null, over: null, ...values,
});

test("the pause grows with each failure, up to four seconds", () => {
  assert.deepEqual([1, 2, 3, 4, 5, 6, 100].map(backOffMs), [250, 500, 1000, 2000, 4000, 4000, 4000]);
});

test("a recording that runs over a bad network arrives whole", async () => {
  const random = new Random(7);
  const server = new ServerDouble(random);
  const recording = newRecording({
    exchange: async (message) => {
      await nextTick();
      if (random.chance(0.1)) throw new Error("the network is down");
      const answer = server.exchange(message);
      return random.chance(0.1) ? undefined : answer;
    },
  });
  const running = recording.run();
  let produced = [];
  for (let block = 0; block < 200; block++) {
    const bytes = random.bytes(random.integer(1, 100) * 2);
    produced = produced.concat([...bytes]);
    recording.push(bytes);
    if (random.chance(0.3)) await nextTick();
  }
  recording.end();
  assert.equal((await running).done, true);
  assert.deepEqual(server.bytesOf("part-1"), produced);
});

test("one message is under way at a time", async () => {
  let open = 0;
  let most = 0;
  const recording = newRecording({
    exchange: async (message) => {
      most = Math.max(most, ++open);
      await nextTick();
      open--;
      const received = message.offset + Buffer.from(message.audio, "base64").length;
      return reply(received, { done: message.last !== null });
    },
  });
  const running = recording.run();
  for (let block = 0; block < 20; block++) {
    recording.push(new Uint8Array(300));
    await nextTick();
  }
  recording.end();
  await running;
  assert.equal(most, 1);
});

test("a server that does not answer is asked again after the time-out", async () => {
  const pauses = [];
  let asked = 0;
  const recording = newRecording({
    exchange: () => ++asked === 1 ? never() : Promise.resolve(reply(0, { done: true })),
    sleep: async (ms) => {
      pauses.push(ms);
      if (asked > 1) await never();
    },
    backOff: async (ms) => pauses.push(ms),
  });
  recording.end();
  await recording.run();
  assert.equal(asked, 2);
  assert.deepEqual(pauses, [15_000, 250, 15_000]);
});

test("without new audio the server is asked for text once in a while, and the end is sent at once", async () => {
  const pauses = [];
  let polls = 0;
  const recording = newRecording({
    exchange: async (message) => reply(0, { done: message.last !== null }),
    sleep: (ms) => {
      if (ms !== 1000) return never(); // the time-out of a reply
      pauses.push(ms);
      return ++polls < 3 ? Promise.resolve() : never();
    },
  });
  const running = recording.run();
  while (polls < 3) await nextTick();
  recording.end();
  await running;
  assert.deepEqual(pauses, [1000, 1000, 1000]);
});

test("a recording that the server refuses rejects with the server's message", async () => {
  const recording = newRecording({ exchange: async () => ({ full: "The server is full." }) });
  await assert.rejects(recording.run(), new UserError("The server is full."));
});

test("progress is reported after every reply and every failure", async () => {
  const phases = [];
  const answers = [undefined, { queued: 1 }, reply(0), reply(0, { done: true })];
  const recording = newRecording({
    exchange: async () => answers.shift(),
    sleep: (ms) => ms === 1000 ? Promise.resolve() : never(),
    onProgress: () => phases.push(recording.state.phase),
  });
  await recording.run();
  assert.deepEqual(phases, ["reconnecting", "queued", "listening", "listening"]);
});
