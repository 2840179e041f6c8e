// When the device took the microphone away, and for how long: a call, a locked screen, another app. Pure.

import { formatTime } from "../shared/format.js";
import { t } from "../shared/text.js";

const SHORTEST_SECONDS = 0.5; // less costs no word

export class Interruptions {
  #since = null; // when the one that goes on began, in ms

  missing = 0;  // seconds of all that have ended
  last = null;  // {at, seconds}: where in the recording, and how long

  // `interrupted`: whether the microphone is away now. `at`: seconds that are recorded. `now`: milliseconds of a clock
  // that goes on while the device sleeps.
  take(interrupted, at, now) {
    if (interrupted) {
      this.#since ??= now;
      return;
    }
    if (this.#since === null) return;
    const seconds = (now - this.#since) / 1000;
    this.#since = null;
    if (seconds < SHORTEST_SECONDS) return;
    this.missing += seconds;
    this.last = { at, seconds };
  }

  get message() {
    if (!this.last) return "";
    return t("The microphone was paused at {time} for {seconds} s. What was said then is missing.", {
      time: formatTime(this.last.at), seconds: Math.round(this.last.seconds),
    });
  }
}
