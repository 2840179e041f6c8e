import assert from "node:assert/strict";
import { test } from "node:test";

import { Transcript } from "../../../qwen_asr/web/page/browser/shared/transcript.js";

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
  className = "";
  #text = "";
  ownerDocument = { createElement: () => new Node() };

  get textContent() { return this.#text + this.children.map((child) => child.textContent).join(""); }

  set textContent(text) {
    this.writes++;
    this.#text = text;
    this.children = [];
  }

  get classList() {
    const names = new Set(this.className.split(" "));
    return { toggle: (name, on) => {
      names[on ? "add" : "delete"](name);
      this.className = [...names].join(" ");
    } };
  }

  append(...added) {
    for (const child of added) this.insertBefore(typeof child === "string" ? new Text(child) : child, null);
  }

  insertBefore(child, next) {
    child.parent = this;
    this.children.splice(next ? this.children.indexOf(next) : this.children.length, 0, child);
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

class Text extends Node {
  constructor(text) {
    super();
    this.textContent = text;
  }
}

function newTranscript(options) {
  const container = new Node();
  const announcer = new Node();
  const texts = (name) => container.querySelectorAll(`.${name}`).map((node) => node.textContent);
  return { transcript: new Transcript(container, announcer, options), container, announcer, texts };
}

test("a line has its settled and its tentative text, and times that continue", () => {
  const { transcript, container, texts } = newTranscript();
  transcript.show({}, line(), 60);
  const [utterance] = container.children;
  assert.deepEqual(["time", "settled", "tentative", "words"].map((name) => texts(name)[0]), [
    "1:01", "Turn on", " the light", "Turn on the light",
  ]);
  assert.equal(utterance.querySelector(".time").title, "61.25 s – 63.00 s");
  transcript.show({}, line({ settled: "", tentative: "", final: true, error: "It failed." }), 60);
  assert.deepEqual(texts("settled"), ["Turn on", "It failed."]);
  assert.deepEqual(container.children.map(({ className }) => className), ["utterance", "utterance failed"]);
});

test("an utterance grows in place, and settled text is not touched", () => {
  const { transcript, container, texts } = newTranscript();
  const part = {};
  transcript.show(part, line(), 0);
  const [utterance] = container.children;
  const settled = utterance.querySelector(".settled");
  assert.equal(settled.writes, 1);
  transcript.show(part, line({ tentative: " the lights" }), 0);
  assert.deepEqual([settled.writes, settled.children.length], [1, 0]);
  transcript.show(part, line({ settled: "Turn on the light.", tentative: "", final: true }), 0);
  assert.deepEqual([settled.writes, settled.children.map((child) => child.textContent)], [1, [" the light."]]);
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

test("words that come later touch nothing in the page", () => {
  const changed = [];
  const { transcript, container, announcer } = newTranscript({ onChange: (lines) => changed.push(...lines) });
  const part = {};
  const final = line({ settled: "Turn on", tentative: "", final: true });
  transcript.show(part, final, 0);
  const nodes = [...["words", "settled"].map((name) => container.querySelector(`.${name}`)), announcer];
  const before = nodes.map(({ writes, children }) => [writes, children.length]);
  transcript.show(part, { ...final, words: [["Turn", 1.25, 2], ["on", 2, 3]] }, 0);
  assert.deepEqual(nodes.map(({ writes, children }) => [writes, children.length]), before);
  assert.deepEqual(changed.at(-1).words, [["Turn", 1.25, 2], ["on", 2, 3]]);
});

test("words that a final takes back are marked, and the line is heard once", () => {
  const { transcript, container, announcer, texts } = newTranscript();
  const part = {};
  transcript.show(part, line({ settled: "Turn of the" }), 0);
  const final = line({ settled: "Turn on the light.", tentative: "", final: true });
  transcript.show(part, final, 0);
  transcript.show(part, { ...final, words: [["Turn", 1.25, 2]] }, 0);
  assert.deepEqual([texts("corrected"), texts("mark")], [["on"], ["corrected"]]);
  assert.deepEqual(texts("settled"), ["Turn on the light."]);
  assert.equal(container.querySelector(".corrected").title, "Corrected. Before: of");
  assert.deepEqual([announcer.textContent, announcer.writes], ["Turn on the light.", 1]);
});

test("a line that is edited, emptied or cleared comes back where it was", () => {
  const gone = [];
  const onChange = (_, lines) => gone.push(...lines);
  const { transcript, container, texts } = newTranscript({ editable: true, onChange });
  const part = {};
  for (const [number, settled] of ["One.", "Two.", "Three."].entries()) {
    transcript.show(part, line({ number, settled, tentative: "", final: true }), 0);
  }
  const second = container.children[1];
  assert.equal(second.querySelector(".edit").ariaLabel, "Edit the line at 0:01");
  transcript.edit(2, "<b>2</b>");
  assert.deepEqual([second.className, second.querySelector(".mark").textContent], ["utterance edited", "edited"]);
  transcript.edit(2, " ");
  assert.deepEqual([texts("settled"), gone.map(({ id }) => id)], [["One.", "Three."], [2]]);
  transcript.undo();
  assert.deepEqual(texts("settled"), ["One.", "<b>2</b>", "Three."]);
  transcript.show(part, line({ number: 3 }), 0);
  transcript.clear(true);
  transcript.undo();
  assert.deepEqual(texts("words"), ["One.", "<b>2</b>", "Three.", "Turn on the light"]);
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
