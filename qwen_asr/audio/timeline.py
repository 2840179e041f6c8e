"""Places decoded frames where their container says that they are heard, with silence where it has no sound.

Matroska (mkv, webm), mp4 (mov, m4a), MPEG transport and program streams, ogg, flv and asf (wmv) store presentation
times. The sound of a film may begin after its picture, and a recorder may leave out packets while nobody speaks. All
other formats store no times: their samples follow each other.

**Time zero.** Transport and program streams and ogg begin at any time, and their zero is the first time in the file, of
its video too, as FFmpeg and players have it (RFC 7845, section 4.3, for ogg). The other formats count from their own
zero. A file of these that begins later than `FAR_START_SECONDS` was cut out of a longer stream: its zero is the first
time in it.

**Tolerance.** Times are rounded, to 1 ms in Matroska and flv, and recorders stamp packets with a jitter. So the sum of
the samples counts, and is compared with each time: silence is inserted only where the two differ by more than
`TOLERANCE_SECONDS`, and then as much as is missing. Nothing accumulates.

**Overlaps.** Sound is never dropped, nor played twice. Sound whose time has passed already follows directly, later than
its time; the next gap is shorter by as much. If times go back by more than `RESTART_SECONDS`, as where two transport
streams are joined, they count anew from there. Both are logged.
"""

import logging
from collections.abc import Iterator

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from qwen_asr.audio import SAMPLE_RATE

log = logging.getLogger(__name__)

_FROM_ZERO = frozenset({"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "flv", "asf"})
_FROM_ANY_TIME = frozenset({"mpegts", "mpeg", "ogg"})
TOLERANCE_SECONDS = 0.03
START_TOLERANCE_SECONDS = 0.02
"""Together they keep every time within 50 ms. Encoders begin up to one frame, 21 ms of AAC, before or after the
picture."""
DECODER_DELAY_SECONDS = 0.25
"""Decoders may drop the first samples, which only prepare them: 86 ms of WMA, 138 ms of MP3 at 8 kHz."""
RESTART_SECONDS = 1.0
FAR_START_SECONDS = 600.0
MAX_SILENCE_SECONDS = 4 * 3600.0
"""How much silence one file may get in all. A file of a few bytes can name times of years. As float32 at 16 kHz this is
0.9 GB for who wants the whole clip at once."""


class Timeline:
    """The time line of one track. Call `silence_before` for each frame in order."""

    def __init__(self, name: str, *, zero: float = 0.0, start: float | None = None, timed: bool = True) -> None:
        """`name` is the file's name in log messages. `timed`: whether the times mean anything.

        `zero` is the time that becomes 0, `start` that of the track's first packet, in seconds.
        """
        self._name = name
        self._zero, self._start, self._timed = zero, start, timed
        self._origin: float | None = None  # the time in the container of the first sample that is put out
        self._begin = 0  # where the current run of samples without a gap begins, in samples at 16 kHz
        self._count, self._rate = 0, SAMPLE_RATE  # how many samples it has, and their rate
        self._left = MAX_SILENCE_SECONDS
        self._told = set[str]()

    @classmethod
    def of(cls, container: InputContainer, stream: AudioStream, name: str) -> "Timeline":
        """The time line of a track as its container states it."""
        kind = container.format.name
        known = stream.start_time is not None and stream.time_base is not None
        start = float(stream.start_time * stream.time_base) if known else None  # type: ignore[operator]  # known
        first = None if container.start_time is None else container.start_time / av.time_base
        if kind in _FROM_ANY_TIME:
            zero = start or 0.0 if first is None else first
        else:
            zero = first if first is not None and first > FAR_START_SECONDS else 0.0
        return cls(name, zero=zero, start=start, timed=kind in _FROM_ZERO | _FROM_ANY_TIME)

    @property
    def seconds(self) -> float:
        """Where the next sample is put out."""
        return self._begin / SAMPLE_RATE + self._count / self._rate

    def silence_before(self, time: float | None, samples: int, rate: int) -> int:
        """How many samples of silence, at 16 kHz, go before a frame of `samples` at `rate` Hz.

        `time` is the frame's presentation time in seconds; None if it has none. If the result is not 0, the run of
        samples before the silence ends and has ``round_half_up(count * 16000 / rate)`` samples at 16 kHz, as
        `StreamingResampler` gives.
        """
        silence = self._gap(time)
        if silence or rate != self._rate:
            self._begin = self._end_of_run() + silence
            self._count, self._rate = 0, rate
        self._count += samples
        return silence

    def _end_of_run(self) -> int:
        return self._begin + (2 * self._count * SAMPLE_RATE + self._rate) // (2 * self._rate)

    def _gap(self, time: float | None) -> int:
        if time is None or not self._timed:
            return 0
        if self._origin is None:
            self._origin = self._first_origin(time)
        missing = time - self._origin - self.seconds
        if missing < -RESTART_SECONDS:
            self._tell("The times in %s go back by %.1f s at %.1f s: what follows is joined there", -missing)
            self._origin = time - self.seconds
            return 0
        if missing < -TOLERANCE_SECONDS:
            self._tell("Sound in %s overlaps by %.2f s at %.1f s: all of it is kept, so what follows is late", -missing)
        if missing <= TOLERANCE_SECONDS:
            return 0
        if missing > self._left:
            self._tell("The times in %s jump by %.0f s at %.1f s: too much to be silence; it is joined there", missing)
            self._origin = time - self.seconds
            return 0
        self._left -= missing
        return max(0, round((time - self._origin) * SAMPLE_RATE) - self._end_of_run())

    def _first_origin(self, time: float) -> float:
        """The time of the first sample that is put out, from that of the first frame that has one."""
        if self._begin or self._count:  # frames without times went before
            return time - self.seconds
        start = self._start if self._start is not None and abs(time - self._start) <= DECODER_DELAY_SECONDS else time
        late = start - self._zero
        return time if late <= START_TOLERANCE_SECONDS else self._zero

    def _tell(self, message: str, seconds: float) -> None:
        """Log the first event of each kind."""
        if message not in self._told:
            self._told.add(message)
            log.warning(message, self._name, seconds, self.seconds)


def with_times(frames: Iterator[AudioFrame]) -> Iterator[tuple[AudioFrame, float | None]]:
    """Each frame with its presentation time in seconds, or None if it has none or the next one's is earlier.

    So one wrong time, as damaged transport streams have, inserts no silence.
    """
    held: tuple[AudioFrame, float | None] | None = None
    for frame in frames:
        time = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        if held is not None:
            wrong = time is not None and held[1] is not None and time < held[1]
            yield held[0], None if wrong else held[1]
        held = frame, time
    if held is not None:
        yield held
