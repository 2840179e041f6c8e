import assert from "node:assert/strict";
import { test } from "node:test";

import {
  CANCELLED, DONE, FAILED, FETCHING, FileList, FileState, QUEUED, TRANSCRIBING, UPLOADING, WAITING, formatSize,
  mergedLines,
} from "../../../qwen_asr/web/page/browser/files/file_state.js";
import { Random } from "./random.mjs";

const line = (number, start, end = start + 1) => ({ number, start, end, text: `Line ${number}.`, language: "English", words: [] });
const newFile = (id = 1) => new FileState({ id, name: `${id}.wav`, file: { name: `${id}.wav`, size: 10 } });

test("sizes", () => {
  assert.deepEqual([0, 999, 1000, 1_234_567, 123_456_789, 5e12].map(formatSize), ["0 B", "999 B", "1.0 kB", "1.2 MB", "123 MB", "5000 GB"]);
});

test("a file goes from its place in the list to its text", () => {
  const file = new FileState({ id: 1, name: "https://a/b.wav", url: "https://a/b.wav" });
  const seen = [];
  const note = () => seen.push([file.state, file.text, file.fraction]);
  note();
  file.fetching(0, null);
  note();
  file.fetching(500, 1000);
  note();
  file.fetched({ name: "b.wav" });
  file.uploading(250, 1000);
  note();
  file.take({ queued: 2 }, 0);
  note();
  file.take({ queued: 1 }, 0);
  note();
  file.take({ heard: [0, 120] }, 0);
  note();
  file.uploading(1000, 1000); // a late report
  file.take({ line: line(0, 1) }, 1000);
  file.take({ heard: [60, 120] }, 60_000);
  note();
  file.take({ done: 120 }, 90_000);
  note();
  assert.equal(file.name, "b.wav");
  assert.deepEqual(seen, [
    [WAITING, "Waiting for the files before it", null],
    [FETCHING, "Fetching: 0 B", null],
    [FETCHING, "Fetching: 500 B of 1.0 kB", 0.5],
    [UPLOADING, "Uploading: 25 %", 0.25],
    [QUEUED, "Waiting: 1 before you", null],
    [QUEUED, "Waiting: you are next", null],
    [TRANSCRIBING, "Transcribing: 0:00 of 2:00", 0],
    [TRANSCRIBING, "Transcribing: 1:00 of 2:00, less than a minute left", 0.5],
    [DONE, "Done: 2:00 of audio", 1],
  ]);
  file.take({ error: "too late" }, 0);
  file.cancel();
  assert.equal(file.state, DONE);
});

test("a file that does not say how long it is, or says less than there is", () => {
  const file = newFile();
  file.take({ heard: [5, null] }, 0);
  assert.equal(file.text, "Transcribing: 0:05 so far; the file does not say how long it is");
  assert.equal(file.fraction, null);
  file.take({ heard: [5, 3] }, 0);
  assert.equal(file.fraction, null);
  file.take({ done: 5 }, 0);
  assert.equal(file.text, "Done: no speech was found in 0:05 of audio");
});

test("a retry keeps the text until the new one has got as far", () => {
  const file = newFile();
  const starts = () => file.lines.map(({ start }) => start);
  for (const start of [0, 2, 4]) file.take({ line: line(start, start) }, 0);
  file.take({ error: "It failed." }, 0);
  assert.deepEqual([file.state, file.text, starts()], [FAILED, "It failed.", [0, 2, 4]]);
  file.retry();
  assert.deepEqual([file.state, starts()], [WAITING, [0, 2, 4]]);
  file.take({ line: line(9, 0.5, 2.5) }, 0);
  assert.deepEqual(starts(), [0.5, 4]);
  file.cancel();
  assert.deepEqual([file.state, file.text, starts()], [CANCELLED, "Cancelled", [0.5, 4]]);
  file.retry();
  file.take({ line: line(0, 0, 1) }, 0);
  file.take({ done: 5 }, 0);
  assert.deepEqual([file.state, starts()], [DONE, [0]]);
});

test("merged lines are in order, do not overlap, and end with nothing of the past before the present", () => {
  const random = new Random(7);
  const lines = () => {
    const found = [];
    for (let end = 0; found.length < random.integer(0, 8);) {
      const start = end + random.integer(0, 3);
      end = start + random.integer(1, 4);
      found.push(line(found.length, start, end));
    }
    return found;
  };
  for (let i = 0; i < 500; i++) {
    const [earlier, fresh] = [lines(), lines()];
    const merged = mergedLines(earlier, fresh);
    assert.deepEqual(merged.slice(0, fresh.length), fresh);
    merged.slice(1).forEach((after, index) => assert.ok(after.start >= merged[index].end));
    if (!fresh.length) assert.deepEqual(merged, earlier);
  }
});

test("the list works on one file at a time, in order, and keeps what waits", () => {
  const list = new FileList();
  const files = [1, 2, 3, 4].map(newFile);
  files.forEach((file) => list.add(file));
  assert.equal(list.next, files[0]);
  files[0].uploading(0, 10);
  assert.deepEqual([list.active, list.next, list.busy], [files[0], null, true]);
  files[1].cancel();
  files[0].take({ done: 1 }, 0);
  assert.equal(list.next, files[2]);
  files[2].fail("It failed.");
  assert.equal(list.next, files[3]);
  assert.deepEqual(list.clearEnded(), files.slice(0, 3));
  assert.deepEqual(list.items, [files[3]]);
  list.remove(files[3]);
  assert.deepEqual([list.next, list.busy], [null, false]);
});
