import assert from "node:assert/strict";
import { test } from "node:test";

import { corrections } from "../../../qwen_asr/web/page/browser/shared/corrections.js";
import { fileName, linesForFile } from "../../../qwen_asr/web/page/browser/shared/transcript_file.js";
import { TranscriptModel } from "../../../qwen_asr/web/page/browser/shared/transcript_model.js";
import { Random } from "./random.mjs";

const utterance = (values = {}) => ({
  number: 0, settled: "Turn on", tentative: " the light", start: 1.25, end: 3, final: false, error: null,
  language: "English", ...values,
});
const final = (values) => utterance({ settled: "Turn on the light.", tentative: "", final: true, ...values });

test("a line has the times, the words and the language of the whole transcript", () => {
  const model = new TranscriptModel();
  const line = model.update({}, final({ words: [["Turn", 1.25, 1.5], ["on", 1.5, 2]] }), 60);
  assert.deepEqual(line, {
    id: 1, start: 61.25, end: 63, settled: "Turn on the light.", tentative: "", language: "English",
    words: [["Turn", 61.25, 61.5], ["on", 61.5, 62]], final: true, failed: false, edited: false, changes: [],
  });
});

test("no update changes a line that the user has edited, and it keeps its times", () => {
  const model = new TranscriptModel();
  const part = {};
  model.update(part, final(), 0);
  assert.equal(model.edit(1, " Turn <b>off</b>\nthe  light. "), true);
  assert.equal(model.update(part, final({ words: [["Turn", 1.25, 1.5]] }), 0), null);
  const [{ settled, edited, words, start, end }] = model.lines;
  assert.deepEqual([settled, edited, words, start, end], ["Turn <b>off</b> the light.", true, [], 1.25, 3]);
});

test("only a final line that has text can be edited, and the same text is no edit", () => {
  const model = new TranscriptModel();
  const part = {};
  model.update(part, utterance(), 0);
  model.update(part, utterance({ number: 1, settled: "", tentative: "", final: true, error: "It failed." }), 0);
  assert.deepEqual([model.edit(1, "Else"), model.edit(2, "Else"), model.edit(3, "Else")], [false, false, false]);
  model.update(part, final(), 0);
  assert.equal(model.edit(1, "Turn on  the light. "), false);
  assert.equal(model.lines[0].edited, false);
});

test("a line that was cleared still gets its words, unseen", () => {
  const model = new TranscriptModel();
  const part = {};
  model.update(part, final(), 0);
  model.clear(false);
  assert.equal(model.update(part, final({ words: [["Turn", 1.25, 1.5]] }), 0), null);
  assert.equal(model.isEmpty, true);
  model.undo();
  assert.equal(model.lines[0].words.length, 1);
});

test("the text of an earlier page is settled as it was", () => {
  const model = new TranscriptModel();
  model.restore([{ ...new TranscriptModel().update({}, utterance(), 0), id: 7 }]);
  assert.equal(model.update({}, final(), 10).id, 8);
  assert.deepEqual(model.lines.map(({ settled, tentative, final: ended }) => [settled, tentative, ended]), [
    ["Turn on the light", "", true], ["Turn on the light.", "", true],
  ]);
});

for (const [before, after, expected] of [
  ["Turn on the", "Turn on the light.", []],
  ["Turn of the", "Turn on the light.", [["on", "of"]]],
  ["Turn on the lights", "Turn on the light and go.", [["light", "lights"]]],
  ["I see see it", "I see it now", [["it", "see it"]]],
  ["I see it", "I can see it now", [["can", ""]]],
  ["one two three", "one two", [["two", "two three"]]],
  ["one two", "three", [["three", "one two"]]],
  ["我喜欢红茶", "我喜欢绿茶和咖啡", [["绿", "红"]]],
  ["a x b y", "b", [["b", "a x b y"]]],
  ["one", "", []],
]) {
  test(`what "${after}" corrects in "${before}"`, () => {
    assert.deepEqual(corrections(before, after).map(([from, to, was]) => [after.slice(from, to), was]), expected);
  });
}

test("what is corrected, put back, gives the text that stood there", () => {
  const random = new Random(7);
  const text = () => Array.from({ length: random.integer(1, 8) }, () => "abc"[random.integer(0, 2)]).join(" ");
  for (let run = 0; run < 2000; run++) {
    const [before, after] = [text(), text()];
    let [shown, back] = [0, ""];
    for (const [from, to, was] of corrections(before, after)) {
      assert.ok(from >= shown && to > from, `${before} → ${after}`);
      back += after.slice(shown, from) + was;
      shown = to;
    }
    back = (back + after.slice(shown)).replace(/\s+/g, " ").trim();
    assert.ok(back.startsWith(before), `${before} → ${after}: ${back}`);
  }
});

// What the model must say: the same events, told to an array in the plainest way.
class Oracle {
  lines = []; // {key, text, settled, open, edited, words}
  removed = [];
  wasCleared = false;

  order(lines) { return lines.sort((a, b) => a.key - b.key); }
}

// The transcript of one page through recordings, edits, Clear, Undo and reloads.
function runAtRandom(random) {
  let model = new TranscriptModel();
  const oracle = new Oracle();
  let key = 0;
  let part = {};
  let open = [];  // utterances of this part that may still change: {number, line}
  let ended = []; // the others, whose words may still come
  let number = 0;
  const say = (line) => Object.assign(line, { settled: `${line.settled} ${random.integer(0, 9)}` });
  const send = (at, line, extra = {}) => model.update(part, {
    number: at, start: at, end: at + 1, settled: line.settled, tentative: line.open ? "?" : "", final: !line.open,
    error: null, language: null, ...extra,
  }, 0);
  const drop = (lines) => { oracle.lines = oracle.lines.filter((line) => !lines.includes(line)); };
  const actions = {
    begin() {
      const line = { key: key++, settled: `u${key}`, open: true, edited: false };
      oracle.lines.push(line);
      open.push({ number, line });
      send(number++, line);
    },
    grow() { for (const { number: at, line } of open) send(at, say(line)); },
    end() {
      const done = open.shift();
      if (!done) return;
      if (random.chance(0.2)) done.line.settled = `corrected${done.line.key}`;
      done.line.open = false;
      ended.push(done);
      send(done.number, done.line);
    },
    words() {
      const done = ended[random.integer(0, ended.length - 1)];
      if (done && !done.line.edited) send(done.number, done.line, { words: [["word", 0, 1]] });
      else if (done) send(done.number, { ...done.line, settled: "the server's" });
    },
    lose() {
      model.removeTentative(part);
      drop(open.map(({ line }) => line));
      oracle.removed = oracle.removed.filter((line) => !line.open);
      [part, open, ended, number] = [{}, [], [], 0];
    },
    edit() {
      const finals = oracle.lines.filter((line) => !line.open);
      const line = finals[random.integer(0, finals.length - 1)];
      if (!line) return;
      const { id } = model.lines[oracle.lines.indexOf(line)];
      const text = random.chance(0.2) ? "" : `edit ${key++}`;
      model.edit(id, text);
      if (text) Object.assign(line, { settled: text, edited: true });
      else {
        drop([line]);
        [oracle.removed, oracle.wasCleared] = [[line], false];
      }
    },
    clear() {
      const keepOpen = random.chance(0.5);
      const gone = oracle.lines.filter((line) => !keepOpen || !line.open);
      model.clear(keepOpen);
      drop(gone);
      if (gone.length) [oracle.removed, oracle.wasCleared] = [gone, true];
    },
    undo() {
      model.undo();
      oracle.lines = oracle.order([...oracle.lines, ...oracle.removed]);
      oracle.removed = [];
    },
    reload() {
      const kept = JSON.parse(JSON.stringify(model.lines));
      model = new TranscriptModel();
      model.restore(kept);
      for (const line of oracle.lines.filter(({ open: isOpen }) => isOpen)) {
        Object.assign(line, { settled: `${line.settled}?`, open: false });
      }
      [part, open, ended, number, oracle.removed] = [{}, [], [], 0, []];
    },
  };
  const names = Object.keys(actions);
  for (let step = 0; step < 120; step++) {
    const name = names[random.integer(0, names.length - 1)];
    actions[name]();
    const shown = model.lines.map((line) => [line.settled, !line.final, line.edited]);
    const expected = oracle.lines.map((line) => [line.settled, line.open, line.edited]);
    assert.deepEqual(shown, expected, `step ${step}: ${name}`);
    const ids = model.lines.map(({ id }) => id);
    assert.deepEqual(ids, [...new Set(ids)].sort((a, b) => a - b), `step ${step}: ${name}`);
    assert.equal(model.canUndo, oracle.removed.length > 0, `step ${step}: ${name}`);
    assert.equal(model.undoesClear, oracle.removed.length > 0 && oracle.wasCleared, `step ${step}: ${name}`);
  }
}

test("text and order survive any recordings, edits, Clear, Undo and reloads", () => {
  for (let seed = 1; seed <= 300; seed++) {
    try {
      runAtRandom(new Random(seed));
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
  }
});

test("a file has the text of each line as it stands, and not what failed", () => {
  const model = new TranscriptModel();
  const part = {};
  model.update(part, final({ words: [["Turn", 1.25, 1.5]] }), 0);
  model.update(part, utterance({ number: 1, settled: "", tentative: "", final: true, error: "It failed." }), 0);
  model.update(part, utterance({ number: 2 }), 0);
  const lines = [
    { start: 1.25, end: 3, text: "Turn on the light.", language: "English", words: [["Turn", 1.25, 1.5]] },
    { start: 1.25, end: 3, text: "Turn on the light", language: "English", words: [] },
  ];
  assert.deepEqual(JSON.parse(linesForFile(model.lines, 2000)), lines);
  const request = JSON.stringify(linesForFile(model.lines, 2000)).length + 1000;
  lines[0].words = [];
  assert.deepEqual(JSON.parse(linesForFile(model.lines, request - 1)), lines);
  assert.equal(linesForFile(model.lines, 1000), null);
  assert.equal(fileName(new Date(2026, 0, 2, 3, 4, 5), "srt"), "transcript-2026-01-02-030405.srt");
});
