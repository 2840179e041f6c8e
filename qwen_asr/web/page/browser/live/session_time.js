// The time that the server still gives to a recording. Pure.

import { t } from "../shared/text.js";

const SHOWN_SECONDS = 30 * 60; // a limit that is further away is no news
const WARN_SECONDS = 5 * 60;
const LAST_SECONDS = 60;

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
