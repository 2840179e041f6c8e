"""Raw samples as they come over a network: bytes of any length in, float32 mono at 16 kHz out."""

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.g711 import LAWS
from qwen_asr.audio.resample import StreamingResampler, to_mono
from qwen_asr.errors import AudioError

ENCODINGS = {"f32le": "<f4", "s16le": "<i2"}
"""The sample formats by the names that clients use (ffmpeg's), little endian, and what numpy calls them."""


class PcmStream:
    """One stream of mono samples; `feed` gives what is now known, `finish` the rest.

    A sample may be cut anywhere: the bytes that are left over wait for the next ones. `received` counts the samples
    taken, at the stream's own rate. Beside `ENCODINGS` it takes the telephone's, `g711.LAWS`. Raises `AudioError` for
    an unknown encoding or a rate that cannot be resampled.
    """

    def __init__(self, encoding: str = "f32le", rate: int = 16_000) -> None:
        known = {**ENCODINGS, **dict.fromkeys(LAWS, "u1")}
        if encoding not in known:
            raise AudioError(f"The encoding {encoding!r} is unknown; give one of {', '.join(known)}.")
        self._type = np.dtype(known[encoding])
        self._law = LAWS.get(encoding)
        self._resampler = StreamingResampler(rate)
        self._rest = b""
        self._given = 0
        self.received = 0

    @property
    def bytes_a_second(self) -> int:
        """How many bytes one second of audio has."""
        return self._resampler.rate * self._type.itemsize

    @property
    def held(self) -> int:
        """How many samples at 16 kHz `finish` would give now."""
        return (2 * self.received * SAMPLE_RATE + self._resampler.rate) // (2 * self._resampler.rate) - self._given

    def feed(self, data: bytes) -> NDArray[np.float32]:
        """Take any number of bytes; return the 16 kHz samples that are now certain, (m,), m >= 0.

        Raises `AudioError` for NaN, infinity and floats beyond any recording; nothing of `data` is then taken.
        """
        data = self._rest + data
        whole = len(data) // self._type.itemsize * self._type.itemsize
        values = np.frombuffer(data[:whole], dtype=self._type)
        samples = to_mono(values if self._law is None else self._law[values])
        self._rest = data[whole:]
        self.received += len(samples)
        known = self._resampler.feed(samples)
        self._given += len(known)
        return known

    def drop_part(self) -> None:
        """Forget the bytes of a sample that is not whole yet: its sender will begin with that sample again."""
        self._rest = b""

    def finish(self) -> NDArray[np.float32]:
        """The samples that the resampler still held. Bytes of a sample that never became whole are dropped."""
        rest = self._resampler.finish()
        self._given += len(rest)
        return rest
