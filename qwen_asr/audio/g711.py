"""G.711 telephone audio (8-bit µ-law and A-law) to 16-bit PCM.

ITU-T Recommendation G.711 (11/88), tables 1 and 2, decoder side: a code is a sign, a segment of three bits and a step
of four bits. The values are the recommendation's 13 (A-law) and 14 bits (µ-law) shifted to the top of 16 bits, as in
sox and ffmpeg.
"""

import numpy as np
from numpy.typing import NDArray

RATE = 8_000
"""The sample rate of G.711, in Hz."""


def _mulaw() -> NDArray[np.int16]:
    """µ-law: all bits of the code are inverted, and the magnitude has a bias of 33 (of 14 bits)."""
    code = ~np.arange(256) & 0xFF
    bias = 33 << 2
    magnitude = (((code & 0x0F) << 3) + bias << ((code & 0x70) >> 4)) - bias
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw() -> NDArray[np.int16]:
    """A-law: the even bits of the code are inverted, and each value is the middle of its interval."""
    code = np.arange(256) ^ 0x55
    segment, step = (code & 0x70) >> 4, (code & 0x0F) << 4
    magnitude = np.where(segment == 0, step + 8, step + 0x108 << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


LAWS: dict[str, NDArray[np.int16]] = {"mulaw": _mulaw(), "alaw": _alaw()}
"""The law by ffmpeg's name → the 16-bit value of each of its 256 codes, (256,)."""
