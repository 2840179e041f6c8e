// Requests to the server: a file on its way to be transcribed, and a link whose file the server fetches.
//
// XMLHttpRequest, because `fetch` does not tell how much of a body has been sent.

import { UserError } from "../shared/errors.js";
import { t } from "../shared/text.js";
import { EventReader } from "./event_stream.js";

const OUTCOME_BYTES = 1024; // behind a file that was fetched: page/files/links.py

const broken = () => t("The connection to the server broke. Check the network, then press Retry.");

export class Cancelled extends Error {}

// The message of an answer with an error status.
function messageOf(body) {
  try {
    return JSON.parse(body).error.message;
  } catch { // of a proxy
    return broken();
  }
}

// Sends a request to its end. `onOpen(request)` prepares it. Rejects with UserError, or with Cancelled after an abort.
function sent(request, body, signal) {
  return new Promise((resolve, reject) => {
    request.onload = resolve;
    request.onerror = () => reject(new UserError(broken()));
    request.onabort = () => reject(new Cancelled());
    signal.addEventListener("abort", () => request.abort());
    if (signal.aborted) reject(new Cancelled());
    else request.send(body);
  });
}

// Sends a file, and gives the events of the answer to `onEvent` as they come. Resolves after the last one.
export async function transcribe({ address, file, language, context, model, signal, onUpload, onEvent }) {
  const request = new XMLHttpRequest();
  const reader = new EventReader();
  let last = {};
  const read = () => {
    if (request.status !== 200) return;
    for (const event of reader.read(request.responseText)) {
      last = event;
      onEvent(event);
    }
  };
  request.open("POST", address);
  request.upload.onprogress = ({ loaded, total }) => onUpload(loaded, total);
  request.onprogress = read;
  const form = new FormData();
  form.append("language", language ?? "");
  form.append("context", context ?? "");
  form.append("model", model ?? "");
  form.append("file", file);
  await sent(request, form, signal);
  if (request.status !== 200) throw new UserError(messageOf(request.responseText));
  read();
  if (!("done" in last || "error" in last)) throw new UserError(broken());
}

// The file at a link, as a File.
export async function fetched({ address, url, signal, onProgress }) {
  const request = new XMLHttpRequest();
  request.open("POST", address);
  request.responseType = "blob";
  request.setRequestHeader("Content-Type", "application/json");
  request.onprogress = ({ loaded }) => onProgress(loaded, Number(request.getResponseHeader("X-File-Bytes")) || null);
  await sent(request, JSON.stringify({ url }), signal);
  const body = request.response;
  if (request.status !== 200) throw new UserError(messageOf(await body.text()));
  const end = Math.max(0, body.size - OUTCOME_BYTES);
  let outcome;
  try {
    outcome = JSON.parse(await body.slice(end).text());
  } catch {
    throw new UserError(broken());
  }
  if (outcome.error) throw new UserError(outcome.error);
  const name = decodeURIComponent(request.getResponseHeader("X-File-Name") ?? "");
  return new File([body.slice(0, end)], name, { type: request.getResponseHeader("X-File-Type") ?? "" });
}
