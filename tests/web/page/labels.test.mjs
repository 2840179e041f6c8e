import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { updates } from "../../../qwen_asr/web/page/browser/settings/labels.js";
import { Settings } from "../../../qwen_asr/web/page/browser/shared/settings.js";
import { setLanguage } from "../../../qwen_asr/web/page/browser/shared/text.js";

afterEach(() => setLanguage("en"));

const THEME = {
  texts: { label: "Theme" }, setting: "theme", value: "auto", choices: [["As the system", "auto"], ["Dark", "dark"]],
};
const CONTEXT = { texts: { label: "Context" }, setting: "context", value: "the server's" };
const HEADING = { texts: { value: "Settings" }, setting: null };

const settingsWith = (values) => new Settings({ getItem: () => JSON.stringify(values) }, new EventTarget());

test("words are in the page's language, and what is sent stays English", () => {
  setLanguage("zh");
  assert.deepEqual(updates([THEME, HEADING], settingsWith({}), "none"), [
    { __type__: "update", label: "主题", choices: [["跟随系统", "auto"], ["深色", "dark"]] },
    { __type__: "update", value: "设置" },
  ]);
});

test("values come along only on demand, and only if they can be the component's", () => {
  const values = (kept, which) => updates([THEME, CONTEXT], settingsWith(kept), which).map(({ value }) => value);
  assert.deepEqual(values({ theme: "dark", context: "Özdemir" }, "all"), ["dark", "Özdemir"]);
  assert.deepEqual(values({}, "all"), ["auto", "the server's"]);
  assert.deepEqual(values({ theme: "blue", context: 3 }, "all"), ["auto", "the server's"]);
  assert.deepEqual(values({ theme: "dark" }, "changed"), ["dark", undefined]);
  assert.deepEqual(values({ theme: "blue", context: "" }, "changed"), [undefined, ""]);
  assert.ok(!("value" in updates([THEME], settingsWith({ theme: "dark" }), "none")[0]));
});
