import assert from "node:assert/strict";
import { test } from "node:test";

import { Interruptions } from "../../../qwen_asr/web/page/browser/microphone/interruptions.js";
import { FLOOR_DB, LevelMeter, decibels, loudness } from "../../../qwen_asr/web/page/browser/microphone/level.js";
import {
  DEFAULTS, audioConstraints, chosenMicrophone, microphones,
} from "../../../qwen_asr/web/page/browser/microphone/microphone_choice.js";
import { pressesRecord } from "../../../qwen_asr/web/page/browser/microphone/shortcut.js";
import { adviceText, paceText, timeLeft, timeWarning } from "../../../qwen_asr/web/page/browser/live/status.js";
import { Settings } from "../../../qwen_asr/web/page/browser/shared/settings.js";

const tone = (amplitude, samples = 1920) => new Uint8Array(
  Int16Array.from({ length: samples }, (_, i) => Math.round(32767 * amplitude * Math.sin(i * Math.PI / 16))).buffer,
);

test("the level is the root mean square and the peak in decibels", () => {
  const { peak, rms } = loudness(tone(0.5));
  assert.ok(Math.abs(decibels(peak) + 6.02) < 0.05);
  assert.ok(Math.abs(decibels(rms) + 9.03) < 0.05); // a sine is 3 dB below its peak
  assert.equal(decibels(0), FLOOR_DB);
  assert.deepEqual(loudness(new Uint8Array(0)), { peak: 0, rms: 0 });
});

test("the meter rises at once, falls slowly, and says what it hears", () => {
  const meter = new LevelMeter();
  assert.equal(meter.state(0), "quiet");
  meter.take(tone(0.5), 1000);
  assert.ok(Math.abs(meter.level + 9.03) < 0.05);
  assert.equal(meter.state(1000), "heard");
  meter.take(tone(0), 1100);
  assert.ok(Math.abs(meter.level + 12.03) < 0.1);
  assert.equal(meter.state(2900), "heard");
  assert.equal(meter.state(3100), "quiet");
  meter.take(tone(0), 10_000);
  assert.equal(meter.level, FLOOR_DB);
  meter.take(tone(1), 10_000);
  assert.equal(meter.state(10_000), "clipped");
});

const DEVICES = [
  { kind: "audioinput", deviceId: "default", label: "Default – Built-in" },
  { kind: "audioinput", deviceId: "a", label: "Built-in" },
  { kind: "audioinput", deviceId: "b", label: "USB" },
  { kind: "videoinput", deviceId: "c", label: "Camera" },
];

test("the list has each microphone once, and none before the browser tells their ids", () => {
  assert.deepEqual(microphones(DEVICES), [{ id: "a", label: "Built-in" }, { id: "b", label: "USB" }]);
  assert.deepEqual(microphones([{ kind: "audioinput", deviceId: "", label: "" }]), []);
});

test("the chosen microphone is found by its id, else by its name", () => {
  const list = microphones(DEVICES);
  assert.equal(chosenMicrophone(list, { id: "b", label: "Built-in" }).id, "b");
  assert.equal(chosenMicrophone(list, { id: "other", label: "USB" }).id, "b");
  assert.equal(chosenMicrophone(list, { id: "other", label: "" }), null);
});

test("the browser is asked for what was chosen", () => {
  const settings = new Settings(null, new EventTarget());
  assert.deepEqual(audioConstraints("", settings), { channelCount: { ideal: 1 }, ...DEFAULTS });
  settings.set("noiseSuppression", true);
  settings.set("autoGainControl", false);
  assert.deepEqual(audioConstraints("b", settings), {
    channelCount: { ideal: 1 }, echoCancellation: false, noiseSuppression: true, autoGainControl: false,
    deviceId: { exact: "b" },
  });
});

test("the lag says whether the text keeps up, and why not", () => {
  const pace = (values) => paceText({ backlog: 0, lag: 0, speed: null, phase: "listening", ...values });
  assert.equal(pace({ behind: 0.42, lag: 0.42 }), "0.4 s behind: keeping up");
  assert.equal(pace({ behind: 2.9, lag: 2.9, speed: 0.5 }), "2.9 s behind: keeping up");
  assert.equal(
    pace({ behind: 12, lag: 12, speed: 0.8 }),
    "12.0 s behind: this server is slower than you speak (0.8 × real time)",
  );
  assert.equal(pace({ behind: 12, lag: 12, speed: 1.44 }), "12.0 s behind: catching up (1.4 × real time)");
  assert.equal(pace({ behind: 12, lag: 12 }), "12.0 s behind"); // not measured yet
  assert.equal(
    pace({ behind: 12, backlog: 11, lag: 1, speed: 0.8 }), "12.0 s behind: your speech is on its way to the server",
  );
  assert.equal(pace({ behind: 12, backlog: 11, lag: 1, phase: "reconnecting" }), "12.0 s behind");
  assert.equal(pace({ behind: 12, lag: 12, speed: 0.8, unavailable: "No engine." }), "12.0 s behind"); // the advice says why
});

test("the time that is left is said calmly, and twice as a warning", () => {
  assert.deepEqual([null, 14_400, 1800, 725, 61, 59.9, 0].map(timeLeft), [
    "", "", "30 min left", "12 min left", "1 min left", "less than 1 min left", "less than 1 min left",
  ]);
  const warnings = [];
  for (let seconds = 400; seconds >= 0; seconds -= 0.5) { // a live region says each new text once
    if (timeWarning(seconds) !== warnings.at(-1)) warnings.push(timeWarning(seconds));
  }
  assert.equal(warnings.length, 3);
  assert.match(warnings[1], /5 minutes/);
  assert.match(warnings[2], /a minute/);
  assert.equal(timeWarning(null), "");
});

const key = (values) => ({
  key: "r", code: "KeyR", altKey: true, ctrlKey: false, metaKey: false, shiftKey: false, repeat: false, isComposing: false,
  target: { tagName: "BODY" }, getModifierState: () => false, ...values,
});

test("Alt+R presses Record, and no key of the browser, a screen reader or a text field is taken", () => {
  assert.ok(pressesRecord(key()));
  assert.ok(pressesRecord(key({ target: { tagName: "TEXTAREA" } })));      // there Alt+R types nothing
  assert.ok(pressesRecord(key({ key: "®" })));                             // a Mac
  assert.ok(!pressesRecord(key({ key: "®", target: { tagName: "INPUT" } })));
  assert.ok(!pressesRecord(key({ key: "®", target: { isContentEditable: true } })));
  assert.ok(pressesRecord(key({ key: "к" })));                             // Cyrillic
  assert.ok(pressesRecord(key({ code: "KeyO" })) && !pressesRecord(key({ key: "p" }))); // Dvorak
  for (const other of ["ctrlKey", "metaKey", "shiftKey", "repeat", "isComposing"]) {
    assert.ok(!pressesRecord(key({ [other]: true })), other);
  }
  assert.ok(!pressesRecord(key({ altKey: false })));
  assert.ok(!pressesRecord(key({ getModifierState: (name) => name === "AltGraph" })));
});

test("an interruption is measured from its beginning to its end", () => {
  const interruptions = new Interruptions();
  interruptions.take(false, 0, 0);
  assert.equal(interruptions.message, "");
  interruptions.take(true, 65.2, 1000);
  interruptions.take(true, 65.2, 5000); // another message about the same one
  assert.equal(interruptions.missing, 0);
  interruptions.take(false, 65.2, 13_400);
  assert.equal(interruptions.message, "The microphone was paused at 1:05 for 12 s. What was said then is missing.");
  interruptions.take(true, 70, 20_000);
  interruptions.take(false, 70, 20_300); // too short for a word
  assert.equal(interruptions.last.at, 65.2);
  assert.equal(Math.round(interruptions.missing * 10), 124);
});

test("sound that is missing because of a known interruption is not reported twice", () => {
  const recording = { phase: "listening", duration: 10, position: 0, reason: "" };
  const view = { recording, fallback: false, interruption: "", missing: 12, notice: "Paused for 12 s." };
  assert.equal(adviceText(view, { startedAt: 0, loudAt: 22_000 }, 22_000), "Paused for 12 s.");
  assert.match(adviceText({ ...view, missing: 0 }, { startedAt: 0, loudAt: 22_000 }, 22_000), /less sound.*Paused/);
});
