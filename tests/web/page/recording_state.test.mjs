import assert from "node:assert/strict";
import { test } from "node:test";

import { UserError } from "../../../qwen_asr/web/page/browser/shared/errors.js";
import { FallbackState, RecordingState } from "../../../qwen_asr/web/page/browser/live/recording_state.js";
import { Random } from "./random.mjs";
import { ServerDouble } from "./server_double.mjs";

const RATE = 16_000;

function newState(options = {}) {
  let parts = 0;
  return new RecordingState({
    rate: RATE, options: { language: "German", context: "" }, maxBlockBytes: 400, newId: () => `part-${++parts}`,
    onLines: () => {}, onPartLost: () => {}, onTimeLimit: () => {}, ...options,
  });
}

const reply = (values = {}) => ({
  received: 0, safe: 0, revision: 0, utterances: [], lag: 0, done: false, error: null, over: null, ...values,
});

test("no byte is lost and none is counted twice, whatever the network and the server do", () => {
  let restarts = 0;
  for (let seed = 0; seed < 200; seed++) {
    const random = new Random(seed);
    const server = new ServerDouble(random);
    const parts = []; // what the page has as final text: {id, base, safe}
    const state = newState({ onPartLost: (part) => parts.push(part) });
    let produced = [];
    let delayed = null; // a message that the network delivers again, late
    let done = false;
    for (let step = 0; step < 10_000 && !done; step++) {
      if (step < 120) {
        const block = random.bytes(random.integer(0, 150) * 2);
        state.push(block);
        produced = produced.concat([...block]);
      } else if (state.total === null) {
        state.end();
      }
      const calm = step > 200; // network and server recover at last, so that the recording can end
      disturb(server, random, calm, state);
      const message = state.nextMessage();
      let answer;
      if (calm || !random.chance(0.15)) answer = server.exchange(message);
      if (!calm && random.chance(0.15)) answer = undefined; // the block arrived, its reply did not
      if (delayed && random.chance(0.5)) {
        if (server.parts.has(delayed.recording)) server.exchange(delayed);
        delayed = null;
      }
      if (random.chance(0.1)) delayed = message;
      done = state.apply(answer) === "done";
    }
    assert.ok(done, `seed ${seed}`);
    restarts += parts.length;
    parts.push({ ...state.part, safe: produced.length - state.part.base });
    const heard = parts.flatMap(({ id, safe }) => server.bytesOf(id).slice(0, safe));
    assert.deepEqual(heard, produced, `seed ${seed}`);
    assert.equal(state.acknowledged, produced.length);
  }
  assert.ok(restarts > 100); // or nothing was tried
});

function disturb(server, random, calm, state) {
  if (calm) {
    if (server.stopping) server.forget();
    server.full = false;
    return;
  }
  if (random.chance(0.02)) server.forget();
  if (random.chance(0.02)) server.stopping = true;
  if (random.chance(0.03)) server.queue = random.integer(1, 3);
  // A recording that has never been accepted would be refused for good.
  server.full = server.full ? random.chance(0.7) : state.accepted && random.chance(0.02);
}

test("each part begins where the text of the one before was final on the page", () => {
  for (let seed = 0; seed < 100; seed++) {
    const random = new Random(seed);
    const server = new ServerDouble(random);
    const lost = [];
    const state = newState({ onPartLost: (part) => lost.push({ ...part }) });
    for (let step = 0; step < 100; step++) {
      state.push(random.bytes(100));
      if (random.chance(0.1)) server.forget();
      state.apply(random.chance(0.8) ? server.exchange(state.nextMessage()) : undefined);
      assert.ok(state.queue.start <= state.part.base + state.part.safe); // all that may be needed again is here
      assert.ok(state.acknowledged >= state.part.base + state.part.safe);
    }
    const bases = [...lost.map(({ base }) => base), state.part.base];
    assert.deepEqual(bases.slice(1), lost.map(({ base, safe }) => base + safe), `seed ${seed}`);
    assert.equal(new Set([...lost.map(({ id }) => id), state.part.id]).size, lost.length + 1);
  }
});

test("a message has the bytes after the acknowledged ones, and the options", () => {
  const state = newState({ maxBlockBytes: 4 });
  state.push(Uint8Array.from([1, 2, 3, 4, 5, 6]));
  assert.deepEqual(state.nextMessage(), {
    recording: "part-1", rate: RATE, offset: 0, audio: "AQIDBA==", last: null, revision: 0, wait: 0, queued: 0,
    language: "German", context: "",
  });
  state.apply(reply({ received: 4, revision: 3 }));
  const { offset, audio, wait, revision } = state.nextMessage();
  assert.deepEqual({ offset, audio, wait, revision }, { offset: 4, audio: "BQY=", wait: 0.15, revision: 3 });
});

test("the end is announced with the last bytes, and only then", () => {
  const state = newState({ maxBlockBytes: 4 });
  state.push(new Uint8Array(6));
  state.end();
  assert.equal(state.phase, "finishing");
  assert.equal(state.nextMessage().last, null);
  state.apply(reply({ received: 4 }));
  assert.equal(state.nextMessage().last, 6);
  assert.equal(state.apply(reply({ received: 6, done: true })), "done");
});

test("a lost reply is retried with the same bytes, and the page says that it reconnects", () => {
  const state = newState();
  state.push(new Uint8Array(6));
  const first = state.nextMessage();
  assert.equal(state.apply(undefined), "retry");
  assert.equal(state.phase, "reconnecting");
  assert.equal(state.failures, 1);
  assert.deepEqual(state.nextMessage(), first);
  assert.equal(state.apply(undefined), "retry");
  assert.equal(state.failures, 2);
  assert.equal(state.apply(reply({ received: 6 })), "continue");
  assert.equal(state.failures, 0);
  assert.equal(state.phase, "listening");
});

test("while it waits in the queue nothing is sent, and nothing is lost", () => {
  const state = newState();
  state.push(new Uint8Array(6));
  assert.equal(state.apply({ queued: 2 }), "queued");
  assert.equal(state.phase, "queued");
  const { audio, wait, queued } = state.nextMessage();
  assert.deepEqual({ audio, wait, queued }, { audio: "", wait: 8, queued: 2 });
  assert.equal(state.apply({ full: "The queue is full." }), "retry"); // it had a position: it tries again
  assert.equal(state.reason, "The queue is full.");
  state.apply(reply());
  assert.equal(state.phase, "listening");
  assert.equal(atob(state.nextMessage().audio).length, 6);
});

test("a full server refuses a recording that begins, and is asked again by one that has begun", () => {
  const first = newState();
  assert.throws(() => first.apply({ full: "The server is full." }), new UserError("The server is full."));
  const state = newState();
  state.apply(reply());
  state.apply({ gone: true });
  assert.equal(state.apply({ full: "The server is full." }), "retry");
});

test("a server that shuts down is quoted until a server answers again", () => {
  const state = newState();
  assert.equal(state.apply({ farewell: "The server is restarting." }), "retry");
  assert.equal(state.reason, "The server is restarting.");
  state.apply(undefined);
  assert.equal(state.reason, "The server is restarting.");
  state.apply(reply());
  assert.equal(state.reason, "");
});

test("bytes are discarded only after the final text is on the page", () => {
  let startWhenShown = null;
  const state = newState({ onLines: () => { startWhenShown = state.queue.start; } });
  state.push(new Uint8Array(100));
  state.push(new Uint8Array(100));
  state.apply(reply({ received: 200, safe: 100 }));
  assert.equal(startWhenShown, 0);
  assert.equal(state.queue.start, 100);
  state.apply(reply({ received: 200, safe: 50 })); // a late view of the server never brings bytes back
  assert.equal(state.part.safe, 100);
});

test("an error with text shows the text, then ends the recording; one without ends it at once", () => {
  const shown = [];
  const state = newState({ onLines: (_, lines) => shown.push(...lines) });
  const failed = reply({ utterances: [{ number: 0 }], error: "The server failed on this recording." });
  assert.throws(() => state.apply(failed), new UserError("The server failed on this recording."));
  assert.equal(shown.length, 1);
  assert.throws(() => newState().apply({ error: "Reload the page." }), new UserError("Reload the page."));
});

test("the time limit is reported once", () => {
  const messages = [];
  const state = newState({ onTimeLimit: (message) => messages.push(message) });
  state.apply(reply({ over: "It has lasted long enough." }));
  state.apply(reply({ over: "It has lasted long enough." }));
  assert.deepEqual(messages, ["It has lasted long enough."]);
});

test("the time limit is not reported for a recording that the user has ended before it", () => {
  const messages = [];
  const state = newState({ onTimeLimit: (message) => messages.push(message) });
  state.end();
  state.apply(reply({ over: "It has lasted long enough." }));
  assert.deepEqual(messages, []);
});

test("durations are in seconds", () => {
  const state = newState();
  state.push(new Uint8Array(2 * RATE));
  state.push(new Uint8Array(2 * RATE));
  assert.equal(state.duration, 2);
  state.apply(reply({ received: 2 * RATE, lag: 0.5 }));
  assert.equal(state.backlog, 1);
  assert.equal(state.behind, 1.5);
  state.apply({ gone: true });
  assert.equal(state.part.startSeconds, 0);
  state.apply(reply({ received: 4 * RATE, safe: 2 * RATE }));
  state.apply({ gone: true });
  assert.equal(state.part.startSeconds, 1);
});

function newFallback(clock) {
  return new FallbackState({
    id: "stock", now: () => clock.ms, onLines: () => {}, onPartLost: () => {}, onTimeLimit: () => {},
  });
}

test("the fallback recorder's recording is only asked for text", () => {
  const state = newFallback({ ms: 0 });
  state.apply({ gone: true });
  state.apply(reply({ received: 3200, seconds: 0.1, lag: 0.2 }));
  const { recording, offset, audio, last } = state.nextMessage();
  assert.deepEqual({ recording, offset, audio, last }, { recording: "stock", offset: 0, audio: "", last: null });
  assert.equal(state.duration, 0.1);
  assert.equal(state.behind, 0.2);
  state.end();
  assert.equal(state.nextMessage().last, 0);
  assert.equal(state.apply(reply({ received: 3200, seconds: 0.1, done: true })), "done");
});

test("the fallback's earlier recording is not taken for the new one", () => {
  const state = newFallback({ ms: 0 });
  assert.equal(state.apply(reply({ done: true, seconds: 5 })), "continue");
  assert.equal(state.duration, 0);
});

test("a fallback recorder without sound gets a message", () => {
  const clock = { ms: 0 };
  const silent = newFallback(clock);
  silent.apply({ gone: true });
  clock.ms = 10_001;
  assert.throws(() => silent.apply({ gone: true }), /Stop it there, allow the microphone, and record again/);
  const stopped = newFallback(clock);
  stopped.end();
  assert.throws(() => stopped.apply({ gone: true }), /Try another browser/);
  const lost = newFallback(clock);
  lost.apply(reply({ seconds: 1 }));
  assert.throws(() => lost.apply({ gone: true }), /lost this recording/);
});
