import assert from "node:assert/strict";
import { test } from "node:test";

import { Transcript, lineView } from "../../../qwen_asr/web/page/browser/shared/transcript.js";

const line = (values = {}) => ({
  number: 0, settled: "Turn on", tentative: " the light", start: 1.25, end: 3, final: false, error: null, ...values,
});

// The few things of a document that the transcript uses, and how often each text was written.
class Node {
  children = [];
  dataset = {};
  scrollHeight = 0;
  scrollTop = 0;
  clientHeight = 0;
  writes = 0;
  parent = null;
  #text = "";
  ownerDocument = { createElement: () => new Node() };

  get textContent() { return this.#text + this.children.map((child) => child.textContent).join(""); }

  set textContent(text) {
    this.writes++;
    this.#text = text;
  }

  get classList() {
    const names = new Set(this.className.split(" "));
    return { toggle: (name, on) => {
      names[on ? "add" : "delete"](name);
      this.className = [...names].join(" ");
    } };
  }

  append(child) {
    child.parent = this;
    this.children.push(child);
  }

  remove() { this.parent.children = this.parent.children.filter((child) => child !== this); }

  querySelectorAll(selector) {
    const [, name, excluded] = selector.match(/^\.(\w+)(?::not\(\.(\w+)\))?$/);
    const has = (node, wanted) => node.className.split(" ").includes(wanted);
    const found = this.children.flatMap((child) => [child, ...child.querySelectorAll(selector)]);
    return [...new Set(found)].filter((node) => has(node, name) && !(excluded && has(node, excluded)));
  }

  querySelector(selector) { return this.querySelectorAll(selector)[0] ?? null; }
}

function newTranscript() {
  const container = new Node();
  const announcer = new Node();
  const texts = (name) => container.querySelectorAll(`.${name}`).map((node) => node.textContent);
  return { transcript: new Transcript(container, announcer), container, announcer, texts };
}

test("a line has its settled and its tentative text, and times that continue", () => {
  assert.deepEqual(lineView(line(), 60), {
    time: "1:01", range: "61.25 s – 63.00 s", settled: "Turn on", tentative: " the light",
    failed: false, final: false, empty: false,
  });
  const failed = lineView(line({ settled: "", tentative: "", final: true, error: "It failed." }), 0);
  assert.deepEqual([failed.settled, failed.failed, failed.empty], ["It failed.", true, false]);
  assert.equal(lineView(line({ settled: "", tentative: "", final: true }), 0).empty, true);
});

test("an utterance grows in place, and only what changed is written", () => {
  const { transcript, container, texts } = newTranscript();
  const part = {};
  transcript.show(part, line(), 0);
  const [utterance] = container.children;
  const settled = utterance.querySelector(".settled");
  assert.equal(settled.writes, 1);
  transcript.show(part, line({ tentative: " the lights" }), 0);
  assert.equal(settled.writes, 1);
  transcript.show(part, line({ settled: "Turn on the light.", tentative: "", final: true }), 0);
  assert.deepEqual(container.children, [utterance]);
  assert.deepEqual([texts("settled"), texts("tentative")], [["Turn on the light."], [""]]);
  assert.equal(utterance.dataset.final, true);
});

test("a final text is announced once", () => {
  const { transcript, announcer } = newTranscript();
  const part = {};
  transcript.show(part, line(), 0);
  assert.equal(announcer.writes, 0);
  const final = line({ settled: "Turn on the light.", tentative: "", final: true });
  transcript.show(part, final, 0);
  announcer.textContent = "";
  transcript.show(part, final, 0);
  assert.equal(announcer.textContent, "");
});

test("a sound that was no speech leaves no line", () => {
  const { transcript, container } = newTranscript();
  const empty = line({ settled: "", tentative: "", final: true });
  transcript.show({}, empty, 0);
  assert.equal(container.children.length, 0);
  const part = {};
  transcript.show(part, line(), 0);
  transcript.show(part, empty, 0);
  assert.equal(container.children.length, 0);
});

test("a lost part keeps its final lines, and its number does not collide with the next part's", () => {
  const { transcript, texts } = newTranscript();
  const [lost, next] = [{}, {}];
  transcript.show(lost, line({ number: 0, settled: "One.", tentative: "", final: true }), 0);
  transcript.show(lost, line({ number: 1, settled: "Tw" }), 0);
  transcript.removeTentative(lost);
  assert.deepEqual(texts("settled"), ["One."]);
  transcript.show(next, line({ number: 0, settled: "Two.", tentative: "", final: true }), 3);
  assert.deepEqual(texts("settled"), ["One.", "Two."]);
  assert.deepEqual(texts("time"), ["0:01", "0:04"]);
  transcript.removeTentative({}); // a part without text
});

test("the text to copy has tentative words and no errors", () => {
  const { transcript } = newTranscript();
  const part = {};
  assert.deepEqual([transcript.isEmpty, transcript.hasText, transcript.text], [true, false, ""]);
  transcript.show(part, line({ number: 0, settled: "", tentative: "", final: true, error: "It failed." }), 0);
  assert.deepEqual([transcript.isEmpty, transcript.hasText], [false, false]);
  transcript.show(part, line({ number: 1, settled: "One.", tentative: "", final: true }), 0);
  transcript.show(part, line({ number: 2 }), 0);
  assert.equal(transcript.text, "One.\nTurn on the light");
});

test("clear keeps the utterance that is being spoken", () => {
  const { transcript, texts, announcer } = newTranscript();
  const part = {};
  transcript.show(part, line({ number: 0, settled: "One.", tentative: "", final: true }), 0);
  transcript.show(part, line({ number: 1 }), 0);
  // In a document, data attributes are text.
  for (const node of transcript.container.children) node.dataset.final = String(node.dataset.final);
  transcript.clear(true);
  assert.deepEqual(texts("settled"), ["Turn on"]);
  assert.equal(announcer.textContent, "");
  transcript.clear(false);
  assert.equal(transcript.isEmpty, true);
});

test("the newest line is scrolled to, unless the reader has scrolled up", () => {
  const { transcript, container } = newTranscript();
  Object.assign(container, { scrollHeight: 500, clientHeight: 200, scrollTop: 290 });
  transcript.show({}, line(), 0);
  assert.equal(container.scrollTop, 500);
  container.scrollTop = 100;
  transcript.show({}, line(), 0);
  assert.equal(container.scrollTop, 100);
});
