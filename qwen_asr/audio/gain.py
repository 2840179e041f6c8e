"""The gain at which the voice detector hears each window, so that it finds quiet speech too.

Silero is trained on speech at usual levels. Below about -55 dBFS it misses words and sentences that the recognizer,
whose features are relative to the loudest sound, still understands. Only the detector hears the raised copy.

The gain of a window of 32 ms depends only on the levels of that window and of those before it, so it is the same
however a stream is split into blocks. It is the largest that

- raises speech to at most `SPEECH_LEVEL`, measured in this window and in the third loudest of the last five. So speech
  at a usual level is heard as it is, the first loud word after silence is not overdriven, and a click, of one or two
  windows, does not lower the gain for what follows it;
- raises the background, the quietest window of the last 2 s, to at most `NOISE_LEVEL`: louder noise than that, or noise
  whose level jumps, hides short words from Silero or passes for them;
- rises by at most `RISE` from window to window, so that the end of a loud word is heard as it is;
- is between 1 and `MAX_GAIN`.

Before the stream there was silence. `benchmarks/quiet.py` measures what is found with the gain and without it, and is
where these numbers come from.
"""

import numpy as np
from numpy.typing import NDArray

SPEECH_LEVEL = 10 ** (-36 / 20)
"""Root mean square of a window, -36 dBFS. Silero finds as much at this level as at any above it."""
NOISE_LEVEL = 10 ** (-60 / 20)
"""-60 dBFS. After seconds of louder noise Silero misses short words; with less, quiet speech in noise stays too low."""
MAX_GAIN = 10 ** (30 / 20)
"""30 dB. It raises speech at -66 dBFS, below which `live.guards` takes audio for silence, to `SPEECH_LEVEL`."""
RISE = 10 ** (2 / 20)
"""2 dB: after a loud speaker, a quiet one is heard at `MAX_GAIN` within half a second."""
_LOOK_BACK = 63  # windows, 2 s: few phrases are longer without a gap that shows the background
_RECENT, _CLICK = 5, 2  # of the last five windows the two loudest may be a click
_SILENT = 1e-9  # instead of 0, so that no quotient is infinite


class GainControl:
    """The gain in one stream: windows in, in order, a gain for each out."""

    def __init__(self) -> None:
        self._levels = np.full(_LOOK_BACK - 1, _SILENT)  # of the last windows
        self._gain = MAX_GAIN  # without regard to the loudness of the window itself

    def feed(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Windows of finite samples (k, n), k >= 0 → gains (k,), 1 to `MAX_GAIN`.

        A gain is made of means, products and comparisons only, so it has the same bits for any k.
        """
        if not len(windows):
            return np.ones(0, np.float32)
        levels = np.maximum(np.sqrt(np.square(windows, dtype=np.float64).mean(axis=1)), _SILENT)
        known = np.concatenate((self._levels, levels))
        self._levels = known[len(levels) :]
        background = np.lib.stride_tricks.sliding_window_view(known, _LOOK_BACK).min(axis=1)
        recent = np.lib.stride_tricks.sliding_window_view(known[_LOOK_BACK - _RECENT :], _RECENT)
        loud = np.sort(recent, axis=1)[:, -1 - _CLICK]
        gains = np.minimum(SPEECH_LEVEL / loud, NOISE_LEVEL / background).clip(1.0, MAX_GAIN)
        for number, limit in enumerate(gains.tolist()):
            self._gain = gains[number] = min(self._gain * RISE, limit)
        raised: NDArray[np.float64] = np.minimum(gains, SPEECH_LEVEL / levels)
        return raised.clip(1.0).astype(np.float32)
