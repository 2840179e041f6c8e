// What the page says about itself: the status, the advice beside it, and the page's state for the style sheet. Pure.

import { formatTime } from "../shared/format.js";
import { t } from "../shared/text.js";

export const SILENCE = 0.002; // a peak that even a quiet room exceeds
const MUTED_AFTER_MS = 6000;
const BEHIND_SECONDS = 3; // less is what a step and its chunk take on any device
const AS_FAST = 0.95;     // at this many times real time and above, the text does not fall further behind
const SHOWN_SECONDS = 30 * 60; // a limit that is further away is no news
const WARN_SECONDS = 5 * 60;
const LAST_SECONDS = 60;

// The first functions take the state of the page:
//   server: {state, text} as the server reports it
//   recording: a RecordingState, or null
//   opening: whether the microphone is being opened
//   problem: a message that stays until the next press of Record
//   obstacle: why this browser cannot record, or ""
//   interruption: why the open microphone gives no audio, or ""
//   missing: seconds of the recording in which it gave none, as far as that is known
//   notice: what else there is to say, or ""
//   fallback: whether Gradio's recorder records

export function statusText({ server, recording, opening, problem, obstacle, interruption }) {
  if (!recording && server.state !== "ready") return t(server.text);
  if (opening) return t("Waiting for the microphone …");
  if (!recording) return t(problem || obstacle) || t("Ready");
  switch (recording.phase) {
    case "reconnecting": return t(recording.reason || "Reconnecting");
    case "queued": return recording.position === 1 ? t("Waiting: you are next")
      : t("Waiting: {count} before you", { count: recording.position - 1 });
    case "listening": return interruption || t("Listening");
    default: return interruption || t("Finishing");
  }
}

// "loading", "ready", "live", "waiting" or "wrong".
export function pageState({ server, recording, opening, problem, obstacle }) {
  if (recording?.failures) return "waiting";
  if (recording || opening) return "live";
  return problem || obstacle || server.state === "failed" ? "wrong" : server.state;
}

// What the user should know or do. `microphone` is null, or {startedAt, loudAt} while it is open: the milliseconds at
// which its first sound began and at which it last gave more than silence.
export function adviceText(view, microphone, now) {
  return [trouble(view, microphone, now), view.notice].filter(Boolean).join(" ");
}

function trouble({ recording, fallback, interruption, missing = 0 }, microphone, now) {
  if (!recording) return "";
  const keepOn = microphone ? t("Keep speaking: nothing is lost.") : t("Keep this page open: nothing is lost.");
  if (recording.phase === "reconnecting" && !recording.reason && !fallback) return keepOn;
  if (recording.phase !== "reconnecting" && recording.unavailable) return `${t(recording.unavailable)} ${keepOn}`;
  if (recording.position) {
    return microphone
      ? t("The server is full. Your speech is kept here and is sent as soon as a place is free.")
      : t("Keep this page open: your speech is sent as soon as a place is free.");
  }
  if (recording.phase !== "listening" || interruption || !microphone) return "";
  const elapsed = (now - microphone.startedAt) / 1000;
  // The clocks of sound card and computer differ a little.
  if (elapsed - missing - recording.duration > 2 + elapsed / 1000) {
    return t("The browser has delivered less sound than time has passed, so words may be missing.");
  }
  return now - microphone.loudAt > MUTED_AFTER_MS ? t("No sound from the microphone: is it muted?") : "";
}

// What changes with the next sentence: `coming` is that of `OptionChanges`.
export function changeText(coming) {
  const says = {
    language: (value) => !value || value === "auto"
      ? t("The language is recognized by itself from the next sentence on.")
      : t("{language} from the next sentence on.", { language: value }),
    context: () => t("The new context holds from the next sentence on."),
    pause: () => t("The new pause length holds from the next sentence on."),
  };
  return Object.entries(coming).map(([name, value]) => says[name](value)).join(" ");
}

export function backlogMessage(recording, maxSeconds) {
  const minutes = formatTime(maxSeconds);
  return recording.phase === "queued"
    ? t("Recording was stopped: the server has been full for {minutes} minutes. Your speech is kept in this page and is " +
        "sent as soon as the server has a free place.", { minutes })
    : t("Recording was stopped: the server has been out of reach for {minutes} minutes. Your speech is kept in this page " +
        "and is sent as soon as the server answers.", { minutes });
}

// How far the text of a RecordingState is behind the speaker, and why. Its `speed` is the server's (speed.py): the
// seconds of speech that become text in each second in which speech waits.
export function paceText({ behind, backlog, lag, speed, phase, unavailable = "" }) {
  const values = { seconds: behind.toFixed(1) };
  // The status or the advice says why.
  if (phase === "queued" || phase === "reconnecting" || unavailable) return t("{seconds} s behind", values);
  if (behind < BEHIND_SECONDS) return t("{seconds} s behind: keeping up", values);
  if (backlog > lag) return t("{seconds} s behind: your speech is on its way to the server", values);
  if (speed === null) return t("{seconds} s behind", values);
  values.speed = speed.toFixed(1);
  return speed < AS_FAST
    ? t("{seconds} s behind: this server is slower than you speak ({speed} × real time)", values)
    : t("{seconds} s behind: catching up ({speed} × real time)", values);
}

// "12 min left", or "" where the end is far away or there is none. `seconds`: what the server said, or null.
export function timeLeft(seconds) {
  if (seconds === null || seconds > SHOWN_SECONDS) return "";
  if (seconds < LAST_SECONDS) return t("less than 1 min left");
  return t("{minutes} min left", { minutes: Math.floor(seconds / 60) });
}

// A warning whose words change only where something new is to be said: a live region then says each of them once.
export function timeWarning(seconds) {
  if (seconds === null || seconds > WARN_SECONDS) return "";
  return seconds > LAST_SECONDS
    ? t("This recording ends in less than 5 minutes. Its text stays; press Record then to go on.")
    : t("This recording ends in less than a minute. Its text stays; press Record then to go on.");
}
