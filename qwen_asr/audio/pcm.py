"""Raw PCM from the network: bytes of any length in, validated float32 mono at 16 kHz out."""

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.g711 import LAWS
from qwen_asr.audio.resample import StreamingResampler
from qwen_asr.audio.validation import to_mono
from qwen_asr.errors import AudioError

ENCODINGS = {"f32le": "<f4", "s16le": "<i2"}
"""Sample formats, little endian: the name that clients use (the one of ffmpeg) → numpy's."""


class PcmStream:
    """Decode one stream of mono samples: `feed` returns the output that is determined so far, `finish` the rest.

    A block may end within a sample: its bytes are kept for the next block. `received` counts whole samples, at the
    stream's own rate. The encodings are those of `ENCODINGS` and `g711.LAWS`. Raises `AudioError` for an unknown
    encoding or a rate that cannot be resampled.
    """

    def __init__(self, encoding: str = "f32le", rate: int = 16_000) -> None:
        known = {**ENCODINGS, **dict.fromkeys(LAWS, "u1")}
        if encoding not in known:
            raise AudioError(f"The encoding {encoding!r} is unknown; give one of {', '.join(known)}.")
        self._type = np.dtype(known[encoding])
        self._law = LAWS.get(encoding)
        self._resampler = StreamingResampler(rate)
        self._partial = b""
        self._returned = 0
        self.received = 0

    @property
    def bytes_per_second(self) -> int:
        """Bytes in one second of audio."""
        return self._resampler.rate * self._type.itemsize

    @property
    def held(self) -> int:
        """Samples at 16 kHz that `finish` would return now."""
        return (2 * self.received * SAMPLE_RATE + self._resampler.rate) // (2 * self._resampler.rate) - self._returned

    def feed(self, data: bytes) -> NDArray[np.float32]:
        """Take any number of bytes; return the 16 kHz samples that are now determined, (m,), m >= 0.

        Raises `AudioError` for NaN, infinity and floats above `samples.MAX_LEVEL`; then none of `data` is taken.
        """
        data = self._partial + data
        whole = len(data) // self._type.itemsize * self._type.itemsize
        values = np.frombuffer(data[:whole], dtype=self._type)
        samples = to_mono(values if self._law is None else self._law[values])
        self._partial = data[whole:]
        self.received += len(samples)
        resampled = self._resampler.feed(samples)
        self._returned += len(resampled)
        return resampled

    def drop_part(self) -> None:
        """Drop the bytes of an incomplete sample: the sender will send that sample again."""
        self._partial = b""

    def finish(self) -> NDArray[np.float32]:
        """Return the samples that the resampler still held. The bytes of an incomplete sample are dropped."""
        rest = self._resampler.finish()
        self._returned += len(rest)
        return rest
