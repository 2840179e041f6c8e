// Opens the audio that this tab keeps, and saves it as a file.

import { IndexedAudio, MemoryAudio } from "./audio_store.js";
import { KeptAudio } from "./kept_audio.js";
import { resample } from "./resample.js";

const DOWNLOAD_MS = 60000; // the browser has begun to write the file by then

// Resolves to a KeptAudio that follows Clear and Undo of the transcript.
export async function openKeptAudio(newId, onChange) {
  const store = await IndexedAudio.open(window.indexedDB).catch(() => new MemoryAudio());
  const kept = new KeptAudio({ store, tab: tabStorage(), newId, now: Date.now, resample, onChange });
  document.addEventListener("qwen-asr-cleared", () => kept.clear());
  document.addEventListener("qwen-asr-restored", () => kept.undo());
  await kept.restore().catch((error) => console.warn(error));
  return kept;
}

export async function saveWav(kept) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await kept.toWav());
  link.download = `recording-${new Date().toISOString().slice(0, 16).replace(/[:T]/g, "-")}.wav`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), DOWNLOAD_MS);
}

// The tab's own storage, or null where the browser forbids it: even reading the name throws there.
function tabStorage() {
  try {
    return window.sessionStorage;
  } catch {
    return null;
  }
}
