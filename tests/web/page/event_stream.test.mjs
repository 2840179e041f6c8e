import assert from "node:assert/strict";
import { test } from "node:test";

import { EventReader } from "../../../qwen_asr/web/page/browser/files/event_stream.js";

test("events come once each, wherever the stream is cut", () => {
  const sent = [{ queued: 1 }, { line: { text: "a\n\nb “c”" } }, { done: 2 }];
  const stream = sent.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("") + ": a comment\n\n";
  const reader = new EventReader();
  const found = [];
  for (let end = 0; end <= stream.length; end++) found.push(...reader.read(stream.slice(0, end)));
  assert.deepEqual(found, sent);
  assert.deepEqual(new EventReader().read(stream), sent);
  assert.deepEqual(new EventReader().read('data: {"don'), []);
});
