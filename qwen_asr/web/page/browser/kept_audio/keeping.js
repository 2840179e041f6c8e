// Opens the audio that this tab keeps, and saves it as a file.

import { IndexedAudio, MemoryAudio } from "./audio_store.js";
import { KeptAudio } from "./kept_audio.js";
import { resample } from "./resample.js";

const TRANSCRIPT = "qwen-asr.transcript"; // in sessionStorage
const OPEN_MS = 5000;
const DOWNLOAD_MS = 60000; // the browser has begun to write the file by then

// Resolves to a KeptAudio that follows Clear and Undo of the transcript, and goes when the user logs out. `owner`: the
// user where there is a login, else "".
export async function openKeptAudio(owner, newId, onChange) {
  const store = await inTime(IndexedAudio.open(window.indexedDB)).catch(() => new MemoryAudio());
  const kept = new KeptAudio({
    store, transcript: transcriptName(newId), owner, newId, now: Date.now, resample, onChange,
  });
  document.addEventListener("qwen-asr-cleared", () => kept.clear());
  document.addEventListener("qwen-asr-restored", () => kept.undo());
  document.addEventListener("submit", (event) => { if (event.target.closest(".log-out")) kept.removeAll(); });
  await inTime(kept.restore()).catch((error) => console.warn(error));
  return kept;
}

export async function saveWav(kept) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await kept.toWav());
  link.download = `recording-${new Date().toISOString().slice(0, 16).replace(/[:T]/g, "-")}.wav`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), DOWNLOAD_MS);
}

// The promise's outcome, or a rejection where the browser does not answer: the page must not wait for it.
function inTime(promise) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error("The storage does not answer.")), OPEN_MS));
  return Promise.race([promise, late]);
}

// The name of this tab's transcript, which survives a reload. Where the browser forbids storage it is a new one.
function transcriptName(newId) {
  try {
    const name = sessionStorage.getItem(TRANSCRIPT) ?? newId();
    sessionStorage.setItem(TRANSCRIPT, name);
    return name;
  } catch {
    return newId();
  }
}
