"""Decodes audio files, bytes, URLs, base64 text and arrays to float32 mono 16 kHz.

PyAV (FFmpeg) reads the common formats: wav, flac, mp3, m4a, ogg, opus, webm, the audio of an mp4. Mono and stereo are
averaged and resampled by the same code as live audio, so a file and a microphone give the same samples. `containers`
opens files and decodes frames, `tracks` chooses the track, `timeline` keeps the times that the container states, with
silence where it has no sound, and `downmix` mixes the channels. So a position in the samples is a time in the file.

Of a damaged or truncated file, everything that can be decoded is returned. Damaged packets are skipped and counted in a
log warning. `AudioError` is raised if more packets are damaged than intact, or if nothing is left.
"""

import base64
import binascii
import contextlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes

import av
import httpx
import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.containers import EXPECTED, frames, layout_of, opened, samples_of
from qwen_asr.audio.downmix import Downmix
from qwen_asr.audio.resample import StreamingResampler
from qwen_asr.audio.timeline import Timeline, with_times
from qwen_asr.audio.tracks import SoundChoice, channel_index, chosen_track
from qwen_asr.audio.validation import ArrayReader, as_array, to_mono
from qwen_asr.errors import AudioError

FETCH_SECONDS = 60.0  # for a whole download
FETCH_BYTES = 512 * 1024 * 1024
_MAX_RATES = 16
"""How often the sample rate of a file may change. Each change takes a new filter, which takes as long as seconds of
audio. The parts of a chained ogg may differ; a FLAC could name another rate in every frame."""


def load_audio(
    source: str | Path | bytes | tuple[Any, Any],
    *,
    track: int | str | None = None,
    channel: int | str | None = None,
) -> NDArray[np.float32]:
    """The whole clip, float32 mono 16 kHz, shape (samples,), samples >= 1.

    `source` is a path, an http(s) URL, a `data:` URL, base64 text, the bytes of a file, or (samples, rate): samples of
    any shape and type that `ArrayReader` takes, and their rate in Hz. (rate, samples), as Gradio's audio component
    gives them, is understood too. This machine fetches the URL, so do not pass on URLs of strangers.

    Of a file with several audio tracks, `track` is the number of one, from 1, or the language in its tag, such as
    "eng"; without it the first that is neither silent nor in a format that cannot be decoded. `channel` is a number
    from 1, "left", "right", "center", or FFmpeg's name, such as "SL"; without it the channels are mixed. Both are for
    files, not for (samples, rate).

    Raises `AudioError` for anything that is not audio, and for a track or channel that the file does not have.
    """
    if isinstance(source, tuple):
        return _from_samples(source)
    if isinstance(source, str):
        source = _from_text(source)
    if isinstance(source, bytes | bytearray | memoryview):
        blocks = decode_blocks(io.BytesIO(source), track=track, channel=channel)
    elif isinstance(source, Path):
        blocks = decode_blocks(source, track=track, channel=channel)
    else:
        raise AudioError(
            f"Audio of type {type(source).__name__} cannot be read; expected a path, URL, base64 text, bytes or "
            "(samples, rate)."
        )
    return _joined(list(blocks))


def decode_blocks(
    source: Path | BinaryIO,
    name: str = "The audio",
    *,
    track: int | str | None = None,
    channel: int | str | None = None,
    choice: SoundChoice | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Decode a file, or an open file, block by block to float32 mono 16 kHz, in constant memory.

    A source that cannot seek, such as a pipe, is first read to its end into a temporary file. `name` is the name of an
    open file in messages. `track` and `channel` are those of `load_audio`; `choice`, in place of them, can say more.

    Raises `AudioError`, as early as possible, for: a missing file, a folder, an empty file, a file that is not audio,
    an unsupported format, no audio track, not the track or channel of `choice`, nothing that can be decoded.
    """
    choice = choice or SoundChoice(track=track, channel=channel)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        with _open(path) as file:
            yield from decode_blocks(file, repr(str(path)), choice=choice)
    elif source.seekable():
        yield from _decode(source, name, choice)
    else:
        with spooled(source, name) as file:
            yield from _decode(file, name, choice)


def read_pcm_wav(file: BinaryIO, name: str, max_seconds: float) -> tuple[int, NDArray[np.float32]]:
    """The rate in Hz and the samples, float32 mono, of a short wav file with uncompressed samples.

    No other format is opened. Raises `AudioError` for anything else, for more than `max_seconds`, and for a file whose
    rate changes.
    """
    rate, parts, length = 0, list[NDArray[np.float32]](), 0
    with opened(file, name, formats="wav") as container:
        stream = chosen_track(container, file, name, SoundChoice())
        if not stream.codec_context.name.startswith("pcm_"):
            raise AudioError(f"{name} has the codec {stream.codec_context.name}; expected uncompressed samples.")
        for frame in frames(container, stream, name):
            rate = frame.sample_rate
            length += frame.samples
            if length > max_seconds * rate:
                raise AudioError(f"{name} is longer than {max_seconds:g} seconds; send shorter pieces.")
            parts.append(to_mono(samples_of(frame)))
    return rate, np.concatenate(parts)


def seconds_of(source: Path | BinaryIO) -> float | None:
    """The duration in seconds that a file, or an open one that can seek, states; None if it states none.

    None too if it cannot be read. An open file is at its beginning afterwards.
    """
    try:
        if not isinstance(source, Path):
            return _stated_seconds(source, "The audio")
        if not source.is_file():  # reading would consume a pipe
            return None
        with source.open("rb") as file:
            return _stated_seconds(file, repr(str(source)))
    except (OSError, AudioError):
        return None


def _stated_seconds(file: BinaryIO, name: str) -> float | None:
    try:
        with opened(file, name) as container:
            return container.duration / av.time_base if container.duration else None
    finally:
        file.seek(0)


def spooled(source: BinaryIO, name: str) -> BinaryIO:
    """A temporary file with the whole content of `source`. It has no name, so the system removes it in any case."""
    try:
        with contextlib.ExitStack() as opened:
            file: Any = opened.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(source, file)
            file.seek(0)
            opened.pop_all()
            return cast(BinaryIO, file)
    except OSError as problem:
        reason = problem.strerror or problem
        raise AudioError(f"{name} cannot be read to its end ({reason}); save it as a file and give that.") from None


def _open(path: Path) -> BinaryIO:
    """Open `path`. FFmpeg only gets open files, because it interprets names as protocols."""
    try:
        if path.is_dir():
            raise AudioError(f"{str(path)!r} is a folder; {EXPECTED}: name a file in it.")
        return path.open("rb")
    except AudioError:  # which is a ValueError too
        raise
    except FileNotFoundError:
        raise AudioError(f"There is no file {str(path)!r}; {EXPECTED}: check the path.") from None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise AudioError(f"{str(path)!r} cannot be opened ({reason}); check the path and its permissions.") from None


def _decode(file: BinaryIO, name: str, choice: SoundChoice) -> Iterator[NDArray[np.float32]]:
    """Decode an open file block by block. `name` is its name in messages."""
    resampler: StreamingResampler | None = None
    downmix: Downmix | None = None
    known: tuple[str, ...] = ()  # the layout of `downmix`
    changes = 0
    with opened(file, name) as container:
        stream = chosen_track(container, file, name, choice)
        timeline = Timeline.of(container, stream, name)
        for frame, time_ in with_times(frames(container, stream, name)):
            rate, layout = frame.sample_rate, layout_of(frame)
            silence = timeline.silence_before(time_, frame.samples, rate)
            if resampler is not None and downmix is not None:
                other_rate = rate != resampler.rate  # the parts of a chained ogg may differ
                if silence or other_rate or layout != known:
                    yield from _resampled(resampler, downmix.finish())
                    downmix = None
                if silence or other_rate:
                    yield from _some(resampler.finish())
                    resampler = None
                if (changes := changes + other_rate) > _MAX_RATES:
                    raise AudioError(f"{name} changes its sample rate more than {_MAX_RATES} times; convert it to one.")
            yield from _silence(silence)
            if resampler is None:
                resampler = StreamingResampler(rate)
            if downmix is None:
                downmix, known = Downmix(layout, rate, name, channel_index(choice, layout, name)), layout
            yield from _resampled(resampler, downmix.feed(samples_of(frame)))
    if resampler is not None and downmix is not None:
        yield from _resampled(resampler, downmix.finish())
        yield from _some(resampler.finish())


def _resampled(resampler: StreamingResampler, pieces: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    for piece in pieces:
        yield from _some(resampler.feed(piece))


def _silence(samples: int) -> Iterator[NDArray[np.float32]]:
    """So many zeros, in blocks of at most a second."""
    for begin in range(0, samples, SAMPLE_RATE):
        yield np.zeros(min(SAMPLE_RATE, samples - begin), np.float32)


def _some(samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    if len(samples):
        yield samples


def _from_samples(source: tuple[Any, ...]) -> NDArray[np.float32]:
    """(samples, rate) or (rate, samples) → float32 mono 16 kHz."""
    arrays: list[Any] = [as_array(part) if isinstance(part, Sequence) else part for part in source]
    if len(arrays) != 2 or [np.ndim(part) == 0 for part in arrays].count(True) != 1:
        raise AudioError("A tuple of audio must be the pair (samples, rate): an array, and its rate in Hz as a number.")
    samples, rate = arrays if np.ndim(arrays[1]) == 0 else reversed(arrays)
    rate = rate.item() if hasattr(rate, "item") else rate  # NumPy's and PyTorch's numbers
    if isinstance(rate, float) and rate.is_integer():
        rate = int(rate)
    mono = ArrayReader().read(samples)
    resampler = StreamingResampler(rate)
    return _joined([resampler.feed(mono), resampler.finish()])


def _joined(blocks: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """All blocks as one clip. Raises `AudioError` if they are empty (one sample at 48 kHz is less than one at 16)."""
    if not sum(map(len, blocks)):
        raise AudioError("The audio has no samples; expected at least one at 16 kHz: record it again.")
    return np.concatenate(blocks)


def _from_text(text: str) -> Path | bytes:
    """The content that a string stands for: of a URL, a data URL or base64 text; or the path that it is."""
    if is_address(text):
        return fetch(text)
    if text[:5].lower() == "data:":
        return _from_data_url(text)
    path = Path(text)
    try:
        if path.exists():
            return path
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        pass
    # Base64 is long and has no dot; anything else is a path that does not exist.
    if len(text) >= 64 and "." not in text:
        return _from_base64(text)
    return path


def _from_data_url(text: str) -> bytes:
    head, comma, body = text.partition(",")
    if not comma:
        raise AudioError("The data URL has no comma; expected data:audio/wav;base64,… with the file behind the comma.")
    data = unquote_to_bytes(body)
    return _from_base64(data.decode("ascii", "replace")) if head.lower().endswith(";base64") else data


def _from_base64(text: str) -> bytes:
    """Base64 (ordinary or URL-safe, line breaks allowed, padding optional) → bytes."""
    packed = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise AudioError(
            f"A text of {len(text)} characters is neither an existing file nor base64; expected a path, a URL or the "
            "base64 of an audio file."
        ) from None


def is_address(text: str) -> bool:
    """Whether a text is an http(s) URL."""
    return text[:8].lower().startswith(("http://", "https://"))


def fetch(url: str) -> bytes:
    """Download the body of an http(s) URL: at most `FETCH_BYTES`, in `FETCH_SECONDS`. Raises `AudioError`."""
    deadline = time.monotonic() + FETCH_SECONDS
    body = bytearray()
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=min(20.0, FETCH_SECONDS)) as response:
            if response.status_code != httpx.codes.OK:
                raise AudioError(f"The address {url} answered {response.status_code}; expected an audio file there.")
            for part in response.iter_bytes():
                body += part
                if len(body) > FETCH_BYTES:
                    raise AudioError(f"The file at {url} is over {FETCH_BYTES} bytes; download it and pass a path.")
                if time.monotonic() > deadline:
                    raise AudioError(f"The file at {url} took over {FETCH_SECONDS:g} s; download it and pass a path.")
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        raise AudioError(
            f"The address {url} cannot be fetched ({problem or type(problem).__name__}); check it and the network."
        ) from None
    return bytes(body)
