"""Mixes the channels of a file to mono: one chosen channel, film sound by its layout, or stereo that may be inverted.

**Film sound** (5.1, 7.1 and other layouts with more than two channels) is mixed as FFmpeg's libswresample does for mono
(`rematrix.c`), after ITU-R BS.775 and ATSC A/52: the centre, where people speak, at 0 dB, the front at -3 dB, the
surround channels at -6 dB, without the low-frequency effects; divided by the sum of these, so that it cannot clip.
Layouts with channels that these do not name, and channels without a layout, as several microphones in one wav, are
averaged. Mono and stereo are averaged as live audio is (`to_mono`).

**Inverted stereo.** If one side is the other with the opposite sign, the mean is silence; a cable or a plug with
swapped poles does this. Stereo is compared in windows of `WINDOW_SECONDS`, counted from the first sample, so that the
result does not depend on the length of frames. While the mean has less than `INVERTED` of the energy of the
difference, the left side is taken alone; until it has more than `RESTORED` again. Silent windows change nothing.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio.validation import to_mono

log = logging.getLogger(__name__)

_FRONT, _SURROUND = 2**-0.5, 0.5
WEIGHTS = {
    "FC": 1.0,
    "FL": _FRONT,
    "FR": _FRONT,
    "FLC": _FRONT,
    "FRC": _FRONT,
    "BL": _SURROUND,
    "BR": _SURROUND,
    "SL": _SURROUND,
    "SR": _SURROUND,
    "BC": _SURROUND,
    "LFE": 0.0,
}
"""The weight of each channel, under FFmpeg's names, before they are divided by their sum."""
WINDOW_SECONDS = 1.0
INVERTED, RESTORED = 0.05, 0.2
"""The first still finds a side that is 4 dB weaker, or noise 10 dB below the speech. Two microphones in one room differ
in phase, but their mean keeps about half of the energy."""
_SILENT = 1e-8
"""The mean square of a window that is silent: -80 dB of full scale."""
_PIECE = 1 << 16
"""Samples for each channel that are converted at once, however long a frame is. It bounds the scratch memory."""


class Downmix:
    """Mixes frames of one layout and rate to float32 mono, (n,). `feed` gives what is known so far, `finish` the rest.

    Together they give one sample for each that was fed.
    """

    def __init__(self, layout: Sequence[str], rate: int, name: str, channel: int | None = None) -> None:
        """`layout` holds FFmpeg's name of each channel, `channel` the index of the only one to take.

        `rate` is in Hz, `name` that of the file in log messages.
        """
        self._channel = channel
        self._weights = _weights(layout)
        self._name = name
        self._window = round(WINDOW_SECONDS * rate) if channel is None and len(layout) == 2 else 0
        self._held: list[NDArray[Any]] = []
        self._inverted = False

    def feed(self, samples: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
        """Take (n, channels) in any sample type; yield pieces of mono. Raises `AudioError` as `to_mono` does."""
        for begin in range(0, len(samples), _PIECE):
            piece = samples[begin : begin + _PIECE]
            if self._window:
                yield from self._compared(piece)
            else:
                yield self._mixed(piece)

    def finish(self) -> Iterator[NDArray[np.float32]]:
        """Yield what is left. The object can be fed anew afterwards."""
        if self._held:
            yield self._side_or_mean(np.concatenate(self._held))
            self._held = []

    def _mixed(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        if self._channel is not None:
            return to_mono(samples[:, self._channel])
        if self._weights is None:
            return to_mono(samples)
        # Channel by channel: the order of additions must not depend on the piece's length or memory layout.
        total = np.zeros(len(samples), np.float32)
        for index, weight in enumerate(self._weights):
            if weight:
                total += to_mono(samples[:, index]) * weight
        return total

    def _compared(self, samples: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
        while len(samples):
            missing = self._window - sum(map(len, self._held))
            self._held.append(samples[:missing])
            samples = samples[missing:]
            if sum(map(len, self._held)) == self._window:
                yield from self.finish()

    def _side_or_mean(self, stereo: NDArray[Any]) -> NDArray[np.float32]:
        mean = to_mono(stereo)
        left, right = to_mono(stereo[:, 0]), to_mono(stereo[:, 1])
        difference = float(np.mean(np.square((left - right) / 2)))
        ratio = float(np.mean(np.square(mean))) / max(difference, 1e-30)
        if difference > _SILENT and not self._inverted and ratio < INVERTED:
            self._inverted = True
            log.warning(
                "One side of the stereo sound of %s is inverted: both together are silence, so the left is taken alone",
                self._name,
            )
        elif difference > _SILENT and self._inverted and ratio > RESTORED:
            self._inverted = False
        return left if self._inverted else mean


def _weights(layout: Sequence[str]) -> list[np.float32] | None:
    """The weight of each channel; None if they are averaged."""
    if len(layout) <= 2 or not all(channel in WEIGHTS for channel in layout):
        return None
    weights = [WEIGHTS[channel] for channel in layout]
    return [np.float32(weight / sum(weights)) for weight in weights]
