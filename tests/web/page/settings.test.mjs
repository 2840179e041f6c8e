import assert from "node:assert/strict";
import { test } from "node:test";

import { Settings } from "../../../qwen_asr/web/page/browser/shared/settings.js";

class Storage {
  constructor(text = null) { this.text = text; }
  getItem() { return this.text; }
  setItem(_, text) { this.text = text; }
}

test("a choice is kept, and reaches every script of the page", () => {
  const storage = new Storage();
  const events = new EventTarget();
  const [one, two] = [new Settings(storage, events), new Settings(storage, events)];
  const heard = [];
  two.listen((name, value) => heard.push([name, value]));
  one.set("fontSize", 20);
  two.set("theme", "dark");
  assert.deepEqual(heard, [["fontSize", 20], ["theme", "dark"]]);
  assert.equal(one.get("theme"), "dark");
  const later = new Settings(storage, new EventTarget());
  assert.deepEqual([later.get("fontSize"), later.get("theme"), later.get("pause", 0.8)], [20, "dark", 0.8]);
});

test("without storage, and with rubbish in it, choices last as long as the page", () => {
  for (const storage of [null, new Storage("{"), new Storage("[1]"), new Storage("null")]) {
    const settings = new Settings(storage, new EventTarget());
    assert.equal(settings.get("theme", "light"), "light");
    settings.set("theme", "dark");
    assert.equal(settings.get("theme"), "dark");
    assert.equal(settings.isKept, storage !== null);
  }
  const full = new Storage();
  full.setItem = () => { throw new Error("QuotaExceededError"); };
  const settings = new Settings(full, new EventTarget());
  settings.set("theme", "dark");
  assert.equal(settings.get("theme"), "dark");
  assert.equal(settings.isKept, false);
});
