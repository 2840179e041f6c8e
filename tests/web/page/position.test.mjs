import assert from "node:assert/strict";
import { test } from "node:test";

import { heardAt, lastStarted, pieces } from "../../../qwen_asr/web/page/browser/files/position.js";
import { Random } from "./random.mjs";

const lines = [
  { start: 1, end: 3, text: "Turn on, please.", words: [["Turn", 1.1, 1.5], ["on,", 1.5, 2], ["please.", 2.2, 3]] },
  { start: 4, end: 5, text: "Yes.", words: [] },
];

test("which line and which word are heard", () => {
  const at = (time) => Object.values(heardAt(lines, time));
  assert.deepEqual([0, 1, 1.1, 1.49, 1.5, 2.1, 2.9, 3, 3.9, 4, 4.9, 5].map(at), [
    [-1, -1], [0, -1], [0, 0], [0, 0], [0, 1], [0, 1], [0, 2], [-1, -1], [-1, -1], [1, -1], [1, -1], [-1, -1],
  ]);
  assert.deepEqual(heardAt([], 1), { line: -1, word: -1 });
});

test("the search agrees with a plain one", () => {
  const random = new Random(5);
  for (let i = 0; i < 300; i++) {
    const starts = Array.from({ length: random.integer(0, 12) }, () => random.integer(0, 20)).sort((a, b) => a - b);
    const time = random.integer(-1, 21);
    assert.equal(lastStarted(starts, time, (start) => start), starts.filter((start) => start <= time).length - 1);
  }
});

test("the pieces of a line are its text, and its words are among them", () => {
  assert.deepEqual(pieces(lines[0]), [["Turn", 0], [" ", -1], ["on,", 1], [" ", -1], ["please.", 2]]);
  assert.deepEqual(pieces(lines[1]), [["Yes.", -1]]);
  assert.deepEqual(pieces({ text: "的的。", words: [["的", 0, 1], ["的。", 1, 2]] }), [["的", 0], ["的。", 1]]);
  // Words that do not stand in the text, as after a correction.
  assert.deepEqual(pieces({ text: "Off.", words: [["On.", 0, 1]] }), [["Off.", -1]]);
  assert.deepEqual(pieces({ text: "Off.", words: [["", 0, 1]] }), [["Off.", -1]]);
});
