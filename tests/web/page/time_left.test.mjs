import assert from "node:assert/strict";
import { test } from "node:test";

import { TimeLeft, timeLeftText } from "../../../qwen_asr/web/page/browser/files/time_left.js";
import { Random } from "./random.mjs";

test("nothing is said before the speed is known, and nothing for a file of unknown length", () => {
  const left = new TimeLeft();
  assert.equal(left.update(0, 0, 600), null);
  assert.equal(left.update(1000, 10, 600), null); // for too short a time
  assert.equal(new TimeLeft().update(9000, 50, null), null);
  const idle = new TimeLeft();
  for (let now = 0; now < 30_000; now += 1000) assert.equal(idle.update(now, 0, 600), null);
});

test("with a steady speed it is right, and falls with the minutes", () => {
  const left = new TimeLeft();
  for (let now = 0; now <= 300_000; now += 1000) {
    const minutes = left.update(now, now / 500, 600); // twice as fast as the sound: five minutes
    if (now < 6000) continue;
    assert.equal(minutes, Math.max(1, Math.ceil((300_000 - now) / 60_000)));
  }
});

test("with an unsteady speed it seldom rises", () => {
  const random = new Random(3);
  const left = new TimeLeft();
  let [heard, rises, last] = [0, 0, null];
  for (let now = 0; heard < 3600; now += 1000) {
    const minutes = left.update(now, heard, 3600);
    if (last !== null && minutes > last) rises += 1;
    last = minutes;
    heard += random.integer(0, 8);
  }
  assert.ok(rises <= 1, `${rises} rises`);
  assert.equal(last, 1);
});

test("when the work becomes much slower it says so", () => {
  const left = new TimeLeft();
  let heard = 0;
  for (let now = 0; now < 60_000; now += 1000) left.update(now, heard += 10, 3600);
  const before = left.update(60_000, heard, 3600);
  for (let now = 61_000; now < 180_000; now += 1000) left.update(now, heard += 1, 3600);
  assert.ok(left.update(180_000, heard, 3600) > 4 * before);
});

test("in words", () => {
  assert.deepEqual([null, 1, 2, 59, 60, 89, 91, 300].map(timeLeftText), [
    "", "less than a minute left", "about 2 minutes left", "about 59 minutes left", "about an hour left",
    "about an hour left", "about 2 hours left", "about 5 hours left",
  ]);
});
