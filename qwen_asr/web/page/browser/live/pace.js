// How far the text is behind the speaker, in words. Pure.

import { t } from "../shared/text.js";

const BEHIND_SECONDS = 3; // less is what a step and its chunk take on any device
const AS_FAST = 0.95;     // at this many times real time and above, the text does not fall further behind

// `recording`: a RecordingState. Its `speed` is the server's (`qwen_asr/web/page/speed.py`): the seconds of speech that
// become text in each second in which speech waits.
export function paceText({ behind, backlog, lag, speed, phase }) {
  const values = { seconds: behind.toFixed(1) };
  if (behind < BEHIND_SECONDS) return t("{seconds} s behind: keeping up", values);
  if (backlog > lag) {
    return phase === "listening" || phase === "finishing"
      ? t("{seconds} s behind: your speech is on its way to the server", values)
      : t("{seconds} s behind", values);
  }
  if (speed === null) return t("{seconds} s behind", values);
  values.speed = speed.toFixed(1);
  return speed < AS_FAST
    ? t("{seconds} s behind: this server is slower than you speak ({speed} × real time)", values)
    : t("{seconds} s behind: catching up ({speed} × real time)", values);
}
