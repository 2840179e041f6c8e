import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { afterEach, test } from "node:test";

import { CHINESE } from "../../../qwen_asr/web/page/browser/shared/chinese.js";
import { CHINESE_SERVER } from "../../../qwen_asr/web/page/browser/shared/chinese_server.js";
import { Settings } from "../../../qwen_asr/web/page/browser/shared/settings.js";
import { followLanguage, language, preferredLanguage, setLanguage, t } from "../../../qwen_asr/web/page/browser/shared/text.js";

const FOLDER = new URL("../../../qwen_asr/web/page/browser/", import.meta.url);
const NAMES = /\{\w+\}/g;

afterEach(() => setLanguage("en"));

// The English words in a call of `t`: one literal, or several joined by `+`.
function literals(source) {
  const calls = source.matchAll(/\bt\(\s*((?:"(?:[^"\\]|\\.)*"\s*\+?\s*)+)/g);
  return [...calls].map(([, joined]) => [...joined.matchAll(/"(?:[^"\\]|\\.)*"/g)].map(([part]) => JSON.parse(part)).join(""));
}

function wordsOfThePage() {
  const files = readdirSync(FOLDER, { recursive: true });
  const read = (name) => readFileSync(new URL(name, FOLDER), "utf8");
  const scripts = files.filter((name) => name.endsWith(".js")).flatMap((name) => literals(read(name)));
  const pages = files.filter((name) => name.endsWith(".html")).flatMap((name) => [
    ...[...read(name).matchAll(/ data-t>([^<]+)</g)].map((found) => found[1]),
    ...[...read(name).matchAll(/ data-t-label="([^"]+)"/g)].map((found) => found[1]),
  ]);
  return [...scripts, ...pages];
}

test("every text of the page has a translation with the same values in it", () => {
  const words = wordsOfThePage();
  assert.ok(words.length > 40);
  assert.deepEqual(words.filter((english) => !(english in CHINESE)), []);
  for (const [english, chinese] of Object.entries({ ...CHINESE, ...CHINESE_SERVER })) {
    assert.deepEqual(chinese.match(NAMES)?.sort(), english.match(NAMES)?.sort(), english);
  }
});

test("values are put into the text, and a text without a translation stays English", () => {
  assert.equal(t("{seconds} s behind", { seconds: 1.5 }), "1.5 s behind");
  setLanguage("zh");
  assert.equal(t("{seconds} s behind", { seconds: 1.5 }), "落后 1.5 秒");
  assert.equal(t("Of the server."), "Of the server.");
  assert.equal(t("{unknown}", { seconds: 1 }), "{unknown}");
});

test("the language is the one that was chosen, else the first of the browser's that is known", () => {
  assert.equal(preferredLanguage("zh", ["en-GB"]), "zh");
  assert.equal(preferredLanguage(null, ["fr", "zh-Hant-TW", "en"]), "zh");
  assert.equal(preferredLanguage("fr", ["fr"]), "en");
});

test("a sentence of the server is translated with the values that are in it", () => {
  const loading = "Loading demo (12 MB) on cpu in float32 …";
  assert.equal(t(loading), loading);
  setLanguage("zh");
  assert.equal(t(loading), "正在以 float32 将 demo（12 MB）加载到 cpu…");
  assert.equal(t("Loading demo (many MB) on cpu in float32 …"), "Loading demo (many MB) on cpu in float32 …");
  assert.equal(t("1.5 s"), "1.5 秒");
  assert.equal(t("It took 5 s"), "It took 5 s");
  const demo = "A small demo that knows everyday sentences";
  const [note] = Object.keys(CHINESE_SERVER).filter((english) => english.startsWith(demo));
  const both = `No Qwen3-ASR checkpoint could be loaded (the log says why), so this is the demo instead. ${note}`;
  assert.ok(t(both).endsWith(CHINESE_SERVER[note]));
});

test("a part of the page follows the language that is chosen", () => {
  const settings = new Settings(null, new EventTarget());
  const node = { dataset: { t: "" }, textContent: "Stop" };
  const root = { querySelectorAll: (selector) => selector === "[data-t]" ? [node] : [] };
  const seen = [];
  followLanguage(root, settings, ["zh-CN", "en"], () => seen.push([language(), node.textContent]));
  settings.set("language", "en");
  settings.set("theme", "dark"); // no language
  settings.set("language", null);
  assert.deepEqual(seen, [["zh", "停止"], ["en", "Stop"], ["zh", "停止"]]);
});
