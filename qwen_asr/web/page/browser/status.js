// What the page says about itself: the status, the advice beside it, and the page's state for the style sheet. Pure.

export const SILENCE = 0.002; // a peak that even a quiet room exceeds
const MUTED_AFTER_MS = 6000;

// 75 → "1:15"
export function formatTime(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

// All functions below take the state of the page:
//   server: {state, text} as the server reports it
//   recording: a RecordingState, or null
//   opening: whether the microphone is being opened
//   problem: a message that stays until the next press of Record
//   obstacle: why this browser cannot record, or ""
//   interruption: why the open microphone gives no audio, or ""
//   fallback: whether Gradio's recorder records

export function statusText({ server, recording, opening, problem, obstacle, interruption }) {
  if (!recording && server.state !== "ready") return server.text;
  if (opening) return "Waiting for the microphone …";
  if (!recording) return problem || obstacle || "Ready";
  switch (recording.phase) {
    case "reconnecting": return recording.reason || "Reconnecting";
    case "queued": return recording.position === 1 ? "Waiting: you are next" : `Waiting: ${recording.position - 1} before you`;
    case "listening": return interruption || "Listening";
    default: return interruption || "Finishing";
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
    return microphone ? "Keep speaking: nothing is lost." : "Keep this page open: nothing is lost.";
  }
  if (recording.position) {
    return microphone
      ? "The server is full. Your speech is kept here and is sent as soon as a place is free."
      : "Keep this page open: your speech is sent as soon as a place is free.";
  }
  if (recording.phase !== "listening" || interruption || !microphone) return "";
  const elapsed = (now - microphone.startedAt) / 1000;
  if (elapsed - recording.duration > 2 + elapsed / 1000) { // the clocks of sound card and computer differ a little
    return "The browser has delivered less sound than time has passed, so words may be missing.";
  }
  return now - microphone.loudAt > MUTED_AFTER_MS ? "No sound from the microphone: is it muted?" : "";
}

export function backlogMessage(recording, maxSeconds) {
  const queued = recording.phase === "queued";
  return `Recording was stopped: the server has been ${queued ? "full" : "out of reach"} for ${formatTime(maxSeconds)} minutes. ` +
    `Your speech is kept in this page and is sent as soon as the server ${queued ? "has a free place" : "answers"}.`;
}
