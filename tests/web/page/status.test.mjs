import assert from "node:assert/strict";
import { test } from "node:test";

import {
  SILENCE, adviceText, backlogMessage, pageState, statusText,
} from "../../../qwen_asr/web/page/browser/live/status.js";
import { formatTime } from "../../../qwen_asr/web/page/browser/shared/format.js";

const READY = { state: "ready", text: "Ready" };

function page(values = {}) {
  return {
    server: READY, recording: null, opening: false, problem: "", obstacle: "", interruption: "", fallback: false, ...values,
  };
}

function recording(phase, values = {}) {
  return { phase, reason: "", position: 0, failures: phase === "reconnecting" ? 1 : 0, duration: 0, ...values };
}

test("times are in hours, minutes and seconds", () => {
  assert.deepEqual([0, 9.99, 75, 3600, 36610].map(formatTime), ["0:00", "0:09", "1:15", "1:00:00", "10:10:10"]);
});

for (const [text, state, values] of [
  ["Ready", "ready", {}],
  ["Fetching a checkpoint …", "loading", { server: { state: "loading", text: "Fetching a checkpoint …" } }],
  ["There is no such folder.", "wrong", { server: { state: "failed", text: "There is no such folder." } }],
  ["Use https.", "wrong", { obstacle: "Use https." }],
  ["It was unplugged.", "wrong", { problem: "It was unplugged.", obstacle: "Use https." }],
  ["Waiting for the microphone …", "live", { opening: true }],
  ["Listening", "live", { recording: recording("listening") }],
  ["Paused.", "live", { recording: recording("listening"), interruption: "Paused." }],
  ["Finishing", "live", { recording: recording("finishing") }],
  ["Listening", "live", { recording: recording("listening"), server: { state: "loading", text: "Loading" } }],
  ["Reconnecting", "waiting", { recording: recording("reconnecting") }],
  ["Shutting down.", "waiting", { recording: recording("reconnecting", { reason: "Shutting down." }) }],
  ["Waiting: you are next", "live", { recording: recording("queued", { position: 1 }) }],
  ["Waiting: 2 before you", "live", { recording: recording("queued", { position: 3 }) }],
]) {
  test(`status: ${text} (${JSON.stringify(Object.keys(values))})`, () => {
    assert.equal(statusText(page(values)), text);
    assert.equal(pageState(page(values)), state);
  });
}

test("while it reconnects the user is told what to do", () => {
  const view = page({ recording: recording("reconnecting") });
  const microphone = { startedAt: 0, loudAt: 0 };
  assert.equal(adviceText(view, microphone, 0), "Keep speaking: nothing is lost.");
  assert.equal(adviceText(view, null, 0), "Keep this page open: nothing is lost.");
  assert.equal(adviceText({ ...view, fallback: true }, null, 0), ""); // there it may be
  assert.equal(adviceText(page({ recording: recording("reconnecting", { reason: "Why." }) }), null, 0), "");
});

test("while no text can come the user is told why, and what to do", () => {
  const unavailable = "No engine can be reached.";
  const microphone = { startedAt: 0, loudAt: 0 };
  const view = page({ recording: recording("listening", { unavailable }) });
  assert.equal(adviceText(view, microphone, 0), "No engine can be reached. Keep speaking: nothing is lost.");
  assert.equal(statusText(view), "Listening"); // it is
  const finishing = page({ recording: recording("finishing", { unavailable }) });
  assert.equal(adviceText(finishing, null, 0), "No engine can be reached. Keep this page open: nothing is lost.");
  const reconnecting = page({ recording: recording("reconnecting", { unavailable }) });
  assert.equal(adviceText(reconnecting, microphone, 0), "Keep speaking: nothing is lost."); // it may be old
});

test("while it waits in the queue the user is told what becomes of the audio", () => {
  const view = page({ recording: recording("queued", { position: 2 }) });
  assert.match(adviceText(view, { startedAt: 0, loudAt: 0 }, 0), /kept here/);
  assert.match(adviceText(view, null, 0), /Keep this page open/);
});

test("a microphone that gives only silence is reported after six seconds", () => {
  const view = page({ recording: recording("listening", { duration: 6 }) });
  const microphone = { startedAt: 0, loudAt: 0 };
  assert.equal(adviceText(view, microphone, 6000), "");
  assert.match(adviceText(view, microphone, 6001), /muted/);
  assert.equal(adviceText(view, { ...microphone, loudAt: 5000 }, 6001), "");
  assert.equal(adviceText({ ...view, interruption: "Paused." }, microphone, 6001), "");
  assert.ok(SILENCE > 0);
});

test("missing sound is reported, and the drift of two clocks is not", () => {
  const at = (elapsed, duration) =>
    adviceText(page({ recording: recording("listening", { duration }) }), { startedAt: 0, loudAt: elapsed }, elapsed);
  assert.equal(at(10_000, 8), "");
  assert.match(at(10_000, 7.9), /less sound than time has passed/);
  assert.equal(at(3_600_000, 3595), "");
  assert.match(at(3_600_000, 3594), /less sound/);
});

test("without a recording there is no advice", () => {
  assert.equal(adviceText(page(), null, 0), "");
  assert.equal(adviceText(page({ recording: recording("finishing") }), null, 0), "");
});

test("a recording that was stopped says whether the server was full or out of reach", () => {
  assert.match(backlogMessage(recording("reconnecting"), 600), /stopped: .* out of reach for 10:00 minutes.* answers/);
  assert.match(backlogMessage(recording("queued"), 600), /stopped: .* full for 10:00 minutes.* free place/);
});
