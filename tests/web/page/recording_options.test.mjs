import assert from "node:assert/strict";
import { test } from "node:test";

import { OptionChanges } from "../../../qwen_asr/web/page/browser/live/option_changes.js";
import { RecordingState } from "../../../qwen_asr/web/page/browser/live/recording_state.js";
import { changeText } from "../../../qwen_asr/web/page/browser/live/status.js";
import { Random } from "./random.mjs";
import { ServerDouble } from "./server_double.mjs";

const GERMAN = { language: "German", context: "", pause: null };
const SPANISH = { ...GERMAN, language: "Spanish" };

function newState(options = {}) {
  let parts = 0;
  return new RecordingState({
    rate: 16_000, options: GERMAN, maxBlockBytes: 400, newId: () => `part-${++parts}`,
    onLines: () => {}, onPartLost: () => {}, onTimeLimit: () => {}, ...options,
  });
}

const reply = (received, values = {}) => ({
  received, safe: 0, revision: 0, utterances: [], lag: 0, done: false, error: null, over: null, options_from: null,
  refused: null, ...values,
});

test("audio is sent with the options that were chosen when it was spoken, whatever is lost and sent again", () => {
  for (let seed = 0; seed < 100; seed++) {
    const random = new Random(seed);
    const server = new ServerDouble(random);
    const state = newState();
    const chosenAt = []; // by byte / 2: the language that was chosen when it was spoken
    let language = "German";
    for (let step = 0; step < 300; step++) {
      if (step < 100) {
        const block = random.bytes(random.integer(0, 150) * 2);
        state.push(block);
        for (let i = 0; i < block.length / 2; i++) chosenAt.push(language);
        if (random.chance(0.2)) {
          language = ["German", "Spanish", "auto"][random.integer(0, 2)];
          state.options.choose({ ...GERMAN, language }, state.queue.end);
        }
      } else if (state.total === null) {
        state.end();
      }
      if (random.chance(0.03)) server.forget();
      const message = state.nextMessage();
      const from = (state.part.base + message.offset) / 2;
      const count = Buffer.from(message.audio, "base64").length / 2;
      for (let i = from; i < from + count; i++) assert.equal(message.language, chosenAt[i], `seed ${seed}, at ${i}`);
      const answer = random.chance(0.85) ? server.exchange(message) : undefined;
      if (state.apply(answer) === "done") break;
    }
  }
});

test("a change is said until an utterance with it begins", () => {
  const state = newState();
  state.push(new Uint8Array(800));
  state.nextMessage();
  state.apply(reply(400, { utterances: [{ number: 0 }] }));
  assert.deepEqual(state.options.coming, {});
  state.options.choose(SPANISH, state.queue.end);
  assert.deepEqual(state.options.coming, { language: "Spanish" }); // before it is sent
  assert.equal(state.nextMessage().language, "German");            // what was spoken before
  state.apply(reply(800));
  state.push(new Uint8Array(100));
  assert.equal(state.nextMessage().language, "Spanish");
  assert.deepEqual(state.options.coming, { language: "Spanish" });
  state.apply(reply(900, { options_from: 1, utterances: [{ number: 0 }] }));
  assert.deepEqual(state.options.coming, { language: "Spanish" }); // the sentence is not over
  state.apply(reply(900, { options_from: 1, utterances: [{ number: 1 }] }));
  assert.deepEqual(state.options.coming, {});
});

test("a choice that is taken back before it was used is no change", () => {
  const changes = new OptionChanges(GERMAN);
  changes.choose(SPANISH, 10);
  changes.choose(GERMAN, 20);
  assert.deepEqual(changes.coming, {});
  changes.choose({ language: "German", pause: null }, 30); // no context is an empty one
  assert.equal(changes.at(40).until, Infinity);
});

test("options that the server refuses are not said to come", () => {
  const state = newState();
  state.options.choose({ ...GERMAN, pause: 99 }, 0);
  state.nextMessage();
  state.apply(reply(0, { refused: "Too long." }));
  assert.equal(state.options.refused, "Too long.");
  assert.deepEqual(state.options.coming, {});
  state.options.choose({ ...GERMAN, pause: 2 }, 0);
  state.nextMessage();
  state.apply(reply(0, { options_from: 0 }));
  assert.equal(state.options.refused, "");
  assert.deepEqual(state.options.coming, { pause: 2 });
});

test("a new part on the server counts its utterances from the start", () => {
  const state = newState();
  state.push(new Uint8Array(400));
  state.nextMessage();
  state.apply(reply(400, { utterances: [{ number: 5 }] }));
  state.nextMessage();
  state.apply({ gone: true });
  state.options.choose(SPANISH, state.queue.end);
  state.push(new Uint8Array(400));
  for (const received of [400, 800]) {
    state.nextMessage();
    state.apply(reply(received, { options_from: received === 800 ? 1 : null, utterances: [{ number: 0 }] }));
  }
  assert.deepEqual(state.options.coming, { language: "Spanish" });
});

test("changes in words", () => {
  assert.equal(changeText({ language: "Spanish" }), "Spanish from the next sentence on.");
  assert.equal(changeText({ language: "auto" }), "The language is recognized by itself from the next sentence on.");
  assert.match(changeText({ context: "Ada", pause: 2 }), /^The new context holds .* The new pause length holds /);
  assert.equal(changeText({}), "");
});
