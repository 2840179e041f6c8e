"""Raw PCM from the network: bytes of any length in, validated float32 mono at 16 kHz out."""

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.g711 import LAWS
from qwen_asr.audio.resample import StreamingResampler
from qwen_asr.audio.stream_checks.sample_format import NAMES, SHIFTED, FormatCheck, align_floats, likely_name
from qwen_asr.audio.stream_checks.signatures import HEAD_BYTES, JSON_MESSAGE, may_be_wav, name_of, read_wav_header
from qwen_asr.audio.validation import to_mono
from qwen_asr.errors import AudioError

ENCODINGS = {"f32le": "<f4", "s16le": "<i2"}
"""Sample formats, little endian: the name that clients use (the one of ffmpeg) → numpy's."""


@dataclass(frozen=True)
class StreamWarning:
    """Something is wrong with the stream, and it goes on. `code` is a name for programs, `message` a sentence."""

    code: str
    message: str


class PcmStream:
    """Decode one stream of mono samples: `feed` returns the output that is determined so far, `finish` the rest.

    A block may end within a sample: its bytes are kept for the next block. `received` counts whole samples, at the
    stream's own rate. The encodings are those of `ENCODINGS` and `g711.LAWS`. Raises `AudioError` for an unknown
    encoding or a rate that cannot be resampled.

    A stream that is not what was announced is recognized. If it is a file or text, `feed` raises `AudioError`, and
    does so from then on. If its samples seem to have another format, there is a warning. The header of a WAV file of
    the announced format is skipped. After a stray byte the samples are aligned again: the byte is dropped, and is no
    part of any sample that is counted.
    """

    def __init__(self, encoding: str = "f32le", rate: int = 16_000) -> None:
        known = {**ENCODINGS, **dict.fromkeys(LAWS, "u1")}
        if encoding not in known:
            raise AudioError(f"The encoding {encoding!r} is unknown; give one of {', '.join(known)}.")
        self._type = np.dtype(known[encoding])
        self._law = LAWS.get(encoding)
        self._resampler = StreamingResampler(rate)
        self._encoding = encoding
        self._check = FormatCheck(encoding, rate)
        self._head = b""  # the beginning of the stream, until it is known to be samples
        self._held: bytes | None = b""  # what may be the header of a WAV file
        self._refusal = ""
        self._warned: set[str] = set()
        self._warnings: list[StreamWarning] = []
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

        Raises `AudioError` for NaN, infinity and floats above `validation.MAX_LEVEL`, and for a stream that certainly
        is no raw audio; then none of `data` is taken.
        """
        data = self._partial + self._without_header(data)
        size = self._type.itemsize
        looks_like = self._check.feed(data[: len(data) // size * size])
        if looks_like == SHIFTED:
            data = data[1:]
        samples, data = self._decode(data)
        self._partial = data[len(data) // size * size :]
        if looks_like is not None:
            self._warn(looks_like)
        self.received += len(samples)
        resampled = self._resampler.feed(samples)
        self._returned += len(resampled)
        return resampled

    def take_warnings(self) -> list[StreamWarning]:
        """What has been found wrong with the stream since the last call."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def _without_header(self, data: bytes) -> bytes:
        """The bytes without the header of a WAV file; none while that may be incomplete. Raises `AudioError`."""
        if self._refusal:
            raise AudioError(self._refusal)
        if self._held is not None:
            data = self._held + data
            if may_be_wav(data):
                header = read_wav_header(data)
                if header is None:
                    self._held = data
                    return b""
                if (header.encoding, header.channels, header.rate) != (self._encoding, 1, self._resampler.rate):
                    sound = f"{header.encoding} at {header.rate} Hz with {header.channels} channel(s)"
                    self._refuse(f"a WAV file of {sound}")
                data, self._held = data[header.size :], None
        if len(self._head) < HEAD_BYTES:
            head = self._head + data[:HEAD_BYTES]
            if (name := name_of(head)) is not None:
                self._refuse(name)
            self._head = head
        if JSON_MESSAGE.search(data):
            self._refuse("JSON")
        if data:
            self._held = None
        return data

    def _refuse(self, found: str) -> NoReturn:
        rate, size = self._resampler.rate, self._type.itemsize
        if found == "JSON":
            remedy = "send text in text messages"
        elif found.startswith("a WAV file"):
            remedy = "announce this format, or convert the file"
        else:
            remedy = "decode it first, or send the file to /v1/audio/transcriptions"
        self._refusal = (
            f"The audio is {found}; expected raw samples as announced, {self._encoding} at {rate} Hz with one channel "
            f"({size} byte{'s' if size > 1 else ''} each): {remedy}."
        )
        raise AudioError(self._refusal)

    def _decode(self, data: bytes) -> tuple[NDArray[np.float32], bytes]:
        """The whole samples in `data`, and `data` without stray bytes. Raises `AudioError`."""
        size = self._type.itemsize
        values = np.frombuffer(data[: len(data) // size * size], dtype=self._type)
        try:
            return to_mono(values if self._law is None else self._law[values]), data
        except AudioError as error:
            if (aligned := align_floats(data)) is not None:
                self._warn(SHIFTED)
                return to_mono(np.frombuffer(aligned[: len(aligned) // size * size], dtype=self._type)), aligned
            name = likely_name(data)
            hint = f" The bytes look like {NAMES[name]}." if name is not None else ""
            raise AudioError(f"{error}{hint}") from None

    def _warn(self, looks_like: str) -> None:
        if looks_like == SHIFTED:
            seconds = self.received / self._resampler.rate
            message = (
                f"Before {seconds:.1f} s there was a stray byte in the stream, which shifted all samples after it. It "
                "was dropped, and the samples are aligned again: check that only whole samples are sent."
            )
            self._warnings.append(StreamWarning("StrayByte", message))
        elif looks_like not in self._warned:
            self._warned.add(looks_like)
            message = (
                f"The audio was announced as {NAMES[self._encoding]}, but looks like {NAMES[looks_like]}: send the "
                "format that is announced, or announce the one that is sent. Until then texts are wrong or empty."
            )
            self._warnings.append(StreamWarning("SampleFormat", message))

    def drop_part(self) -> None:
        """Drop the bytes of an incomplete sample: the sender will send that sample again."""
        self._partial = b""
        self._held = None if self._held is None else b""

    def finish(self) -> NDArray[np.float32]:
        """Return the samples that the resampler still held. The bytes of an incomplete sample are dropped."""
        rest = self._resampler.finish()
        self._returned += len(rest)
        return rest
