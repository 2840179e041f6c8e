"""The gain at which the voice detector hears each window, so that it finds quiet speech too.

Silero is trained on speech at usual levels. Below about -55 dBFS it misses words and sentences that the recognizer,
whose features are relative to the loudest sound, still understands. Only the detector hears the raised copy.

The gain of a window of 32 ms depends on the levels of that window and of those in the 2 s before it, so it is the same
however a stream is split into blocks. It is the largest that

- raises speech to at most `SPEECH_LEVEL`, measured in this window and in the third loudest of the last five. So speech
  at a usual level is heard as it is, a first loud word after silence is not overdriven, and a click, of one or two
  windows, does not lower the gain for what follows it;
- raises the background, the quietest window of the last 2 s, to at most `NOISE_LEVEL`: louder noise than that, or noise
  whose level jumps, hides short words from Silero or passes for them;
- is between 1 and `MAX_GAIN`.

Before the stream there was silence. `benchmarks/quiet.py` measures what is found with the gain and without it.
"""

import numpy as np
from numpy.typing import NDArray

SPEECH_LEVEL = 10 ** (-36 / 20)
"""Root mean square of a window, -36 dBFS. Silero finds as much at this level as at any above it."""
NOISE_LEVEL = 10 ** (-55 / 20)
"""-55 dBFS. With 20 s of pink noise above about -50 dBFS before it, Silero misses some short words."""
MAX_GAIN = 10 ** (40 / 20)
"""40 dB: it raises speech at -76 dBFS, and the rounding error of 16 bits, -101 dBFS, to less than `NOISE_LEVEL`."""
_LOOK_BACK = 63  # windows, 2 s: longer than most phrases without a gap that shows the background
_RECENT, _CLICK = 5, 2  # of the last five windows the two loudest may be a click
_SILENT = 1e-9  # instead of 0, so that no quotient is infinite


class GainControl:
    """The gain in one stream: windows in, in order, a gain for each out."""

    def __init__(self) -> None:
        self._levels = np.full(_LOOK_BACK - 1, _SILENT)  # of the last windows

    def feed(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Windows of finite samples (k, n), k >= 0 → gains (k,), 1 to `MAX_GAIN`.

        Each gain is made of means, quotients and comparisons only, so it has the same bits for any k.
        """
        if not len(windows):
            return np.ones(0, np.float32)
        levels = np.maximum(np.sqrt(np.square(windows, dtype=np.float64).mean(axis=1)), _SILENT)
        known = np.concatenate((self._levels, levels))
        self._levels = known[len(levels) :]
        background = np.lib.stride_tricks.sliding_window_view(known, _LOOK_BACK).min(axis=1)
        recent = np.lib.stride_tricks.sliding_window_view(known[_LOOK_BACK - _RECENT :], _RECENT)
        loud = np.maximum(levels, np.sort(recent, axis=1)[:, -1 - _CLICK])
        gains = np.minimum(SPEECH_LEVEL / loud, NOISE_LEVEL / background)
        return np.clip(gains, 1.0, MAX_GAIN).astype(np.float32)
