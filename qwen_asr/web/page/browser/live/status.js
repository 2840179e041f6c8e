// What the page says about itself: the status, the advice beside it, and the page's state for the style sheet. Pure.

import { formatTime } from "../shared/format.js";
import { t } from "../shared/text.js";

export const SILENCE = 0.002; // a peak that even a quiet room exceeds
const MUTED_AFTER_MS = 6000;

// All functions below take the state of the page:
//   server: {state, text} as the server reports it
//   recording: a RecordingState, or null
//   opening: whether the microphone is being opened
//   problem: a message that stays until the next press of Record
//   obstacle: why this browser cannot record, or ""
//   interruption: why the open microphone gives no audio, or ""
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
export function adviceText({ recording, fallback, interruption }, microphone, now) {
  if (!recording) return "";
  if (recording.phase === "reconnecting" && !recording.reason && !fallback) {
    return microphone ? t("Keep speaking: nothing is lost.") : t("Keep this page open: nothing is lost.");
  }
  if (recording.position) {
    return microphone
      ? t("The server is full. Your speech is kept here and is sent as soon as a place is free.")
      : t("Keep this page open: your speech is sent as soon as a place is free.");
  }
  if (recording.phase !== "listening" || interruption || !microphone) return "";
  const elapsed = (now - microphone.startedAt) / 1000;
  if (elapsed - recording.duration > 2 + elapsed / 1000) { // the clocks of sound card and computer differ a little
    return t("The browser has delivered less sound than time has passed, so words may be missing.");
  }
  return now - microphone.loudAt > MUTED_AFTER_MS ? t("No sound from the microphone: is it muted?") : "";
}

export function backlogMessage(recording, maxSeconds) {
  const minutes = formatTime(maxSeconds);
  return recording.phase === "queued"
    ? t("Recording was stopped: the server has been full for {minutes} minutes. Your speech is kept in this page and is " +
        "sent as soon as the server has a free place.", { minutes })
    : t("Recording was stopped: the server has been out of reach for {minutes} minutes. Your speech is kept in this page " +
        "and is sent as soon as the server answers.", { minutes });
}
