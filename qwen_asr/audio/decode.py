"""Decodes audio files, bytes, URLs, base64 text and arrays to float32 mono 16 kHz.

PyAV (FFmpeg) reads the common formats: wav, flac, mp3, m4a, ogg, opus, webm, the audio of an mp4. Channels are averaged
and resampled by the same code as live audio, so a file and a microphone give the same samples.

Of a damaged or truncated file, everything that can be decoded is returned. Damaged packets are skipped and counted in a
log warning. `AudioError` is raised if more packets are damaged than intact, or if nothing is left.
"""

import base64
import binascii
import contextlib
import ctypes
import io
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes

import av
import httpx
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from qwen_asr.audio.resample import StreamingResampler
from qwen_asr.audio.validation import ArrayReader, as_array, to_mono
from qwen_asr.errors import AudioError

log = logging.getLogger(__name__)

FETCH_SECONDS = 60.0  # for a whole download
FETCH_BYTES = 512 * 1024 * 1024
_EXPECTED = "expected a recording such as wav, flac, mp3, m4a, ogg, webm or mp4"
# Only these formats are opened. FFmpeg also reads playlists and scripts that name other files and addresses, and an
# upload must not make this machine fetch them.
_FORMATS = (
    "wav,w64,rf64,flac,mp3,mov,mp4,m4a,3gp,3g2,mj2,ogg,matroska,webm,aac,ac3,eac3,aiff,caf,au,amr,amrnb,amrwb,asf,"
    "avi,flv,mpeg,mpegts,ape,wv,tta,dts,dsf,gsm,voc,oma,mpc,mpc8,tak,loas,spx"
)
_MAX_ALLOCATION = 32 << 20
"""Bytes that FFmpeg may allocate at once; its own limit is 2 GiB. A header of a few bytes can announce millions of
samples, and compressed metadata can grow a thousand times. The largest honest allocation is the index of an mp4, with
24 bytes for each frame: this is 8 hours of AAC at 48 kHz."""
_MAX_STREAMS = 40
"""Each stream of an mp4 can have such an index. Films with many subtitles and fonts have about thirty streams."""
_MAX_PACKET = 8 << 20
"""Bytes of one packet; a frame of lossless audio has at most a few megabytes."""
_MAX_BROKEN = 10_000
"""How many more packets may be damaged than whole. FFmpeg needs seconds to refuse a megabyte of the smallest ones."""
_MAX_RATES = 16
"""How often the sample rate of a file may change. Each change takes a new filter, which takes as long as seconds of
audio. The parts of a chained ogg may differ; a FLAC could name another rate in every frame."""
_PIECE = 1 << 16
"""Samples for each channel that are converted at once, however long a frame is. It bounds the scratch memory."""

# PyAV does not wrap this function. The lookup also searches the libraries that its modules are linked with, whatever
# their names, except on Windows: there FFmpeg's own limit stays.
with contextlib.suppress(AttributeError):
    ctypes.CDLL(av.packet.__file__).av_max_alloc(ctypes.c_size_t(_MAX_ALLOCATION))


def load_audio(source: str | Path | bytes | tuple[Any, Any]) -> NDArray[np.float32]:
    """The whole clip, float32 mono 16 kHz, shape (samples,), samples >= 1.

    `source` is a path, an http(s) URL, a `data:` URL, base64 text, the bytes of a file, or (samples, rate): samples of
    any shape and type that `ArrayReader` takes, and their rate in Hz. (rate, samples), as Gradio's audio component
    gives them, is understood too. This machine fetches the URL, so do not pass on URLs of strangers. Raises
    `AudioError` for anything that is not audio.
    """
    if isinstance(source, tuple):
        return _from_samples(source)
    if isinstance(source, str):
        source = _from_text(source)
    if isinstance(source, bytes | bytearray | memoryview):
        blocks = decode_blocks(io.BytesIO(source))
    elif isinstance(source, Path):
        blocks = decode_blocks(source)
    else:
        raise AudioError(
            f"Audio of type {type(source).__name__} cannot be read; expected a path, URL, base64 text, bytes or "
            "(samples, rate)."
        )
    return _joined(list(blocks))


def decode_blocks(source: Path | BinaryIO, name: str = "The audio") -> Iterator[NDArray[np.float32]]:
    """Decode a file, or an open file, block by block to float32 mono 16 kHz, in constant memory.

    A source that cannot seek, such as a pipe, is first read to its end into a temporary file. `name` is the name of an
    open file in messages. Raises `AudioError`, as early as possible, for: a missing file, a folder, an empty file, a
    file that is not audio, an unsupported format, no audio track, nothing that can be decoded.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        with _open(path) as file:
            yield from decode_blocks(file, repr(str(path)))
    elif source.seekable():
        yield from _decode(source, name)
    else:
        with _spooled(source, name) as file:
            yield from _decode(file, name)


def read_pcm_wav(file: BinaryIO, name: str, max_seconds: float) -> tuple[int, NDArray[np.float32]]:
    """The rate in Hz and the samples, float32 mono, of a short wav file with uncompressed samples.

    No other format is opened. Raises `AudioError` for anything else, for more than `max_seconds`, and for a file whose
    rate changes.
    """
    rate, parts, length = 0, list[NDArray[np.float32]](), 0
    with contextlib.closing(_mono_pieces(file, name, formats="wav", codecs="pcm_")) as pieces:
        for rate, piece in pieces:
            length += len(piece)
            if length > max_seconds * rate:
                raise AudioError(f"{name} is longer than {max_seconds:g} seconds; send shorter pieces.")
            parts.append(piece)
    return rate, np.concatenate(parts)


def seconds_of(path: Path) -> float | None:
    """The duration in seconds that a file states; None if it states none or cannot be read."""
    if not path.is_file():  # reading would consume a pipe
        return None
    try:
        with path.open("rb") as file, _opened(file, _FORMATS) as container:
            return container.duration / av.time_base if container.duration else None
    except (OSError, ValueError, MemoryError):  # FFmpeg's errors are subclasses of these
        return None


def _spooled(source: BinaryIO, name: str) -> BinaryIO:
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
            raise AudioError(f"{str(path)!r} is a folder; {_EXPECTED}: name a file in it.")
        return path.open("rb")
    except AudioError:  # which is a ValueError too
        raise
    except FileNotFoundError:
        raise AudioError(f"There is no file {str(path)!r}; {_EXPECTED}: check the path.") from None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise AudioError(f"{str(path)!r} cannot be opened ({reason}); check the path and its permissions.") from None


def _decode(file: BinaryIO, name: str) -> Iterator[NDArray[np.float32]]:
    """Decode an open file block by block. `name` is its name in messages."""
    resampler: StreamingResampler | None = None
    changes = -1  # the first rate is none
    with contextlib.closing(_mono_pieces(file, name)) as pieces:
        for rate, piece in pieces:
            if resampler is None or resampler.rate != rate:  # the parts of a chained ogg may differ
                if resampler is not None:
                    yield from _some(resampler.finish())
                if (changes := changes + 1) > _MAX_RATES:
                    raise AudioError(f"{name} changes its sample rate more than {_MAX_RATES} times; convert it to one.")
                resampler = StreamingResampler(rate)
            yield from _some(resampler.feed(piece))
    if resampler is not None:
        yield from _some(resampler.finish())


def _mono_pieces(
    file: BinaryIO, name: str, *, formats: str = _FORMATS, codecs: str = ""
) -> Generator[tuple[int, NDArray[np.float32]]]:
    """The sound of an open file, as (rate in Hz, at most `_PIECE` mono samples).

    Only `formats` are opened, and only codecs whose names begin with `codecs`.
    """
    if not file.read(1):
        raise AudioError(f"{name} is empty; {_EXPECTED}.")
    file.seek(0)
    try:
        container = _opened(file, formats)
    except (av.FFmpegError, ValueError, MemoryError) as problem:
        raise AudioError(f"{name} cannot be read as audio ({_reason(problem)}); {_EXPECTED}.") from None
    with container:
        stream = _sound_of(container, name)
        if not stream.codec_context.name.startswith(codecs):
            raise AudioError(f"{name} has the codec {stream.codec_context.name}; expected uncompressed samples.")
        for frame in _frames(container, stream, name):
            samples = _samples_of(frame)
            for begin in range(0, len(samples), _PIECE):
                yield frame.sample_rate, to_mono(samples[begin : begin + _PIECE])


def _opened(file: BinaryIO, formats: str) -> InputContainer:
    """The container in an open file. FFmpeg may open nothing else for it: no other file, and no address."""
    options = {"format_whitelist": formats, "protocol_whitelist": "none", "max_streams": str(_MAX_STREAMS)}
    return av.open(file, mode="r", options=options, metadata_errors="replace")


def _sound_of(container: InputContainer, name: str) -> AudioStream:
    """The audio stream to decode: FFmpeg's choice where there are several."""
    best = container.streams.best("audio")
    if not isinstance(best, AudioStream):
        raise AudioError(f"{name} contains no audio track; {_EXPECTED} with sound.")
    if best.codec_context is None:
        raise AudioError(f"{name} is in an audio format that cannot be decoded; convert it to wav, flac or mp3.")
    return best


def _frames(container: InputContainer, stream: AudioStream, name: str) -> Iterator[AudioFrame]:
    """Every frame that can be decoded. Damaged packets are counted and reported at the end."""
    whole = broken = frames = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.FFmpegError, MemoryError) as problem:  # damaged: nothing after this point can be found
            log.warning("%s is damaged: reading stopped early (%s)", name, _reason(problem))
            broken += 1
            break
        try:
            if packet.size > _MAX_PACKET:
                raise MemoryError
            decoded = packet.decode()
        except (av.FFmpegError, MemoryError):
            broken += 1
            if broken > whole + _MAX_BROKEN:
                break
            continue
        whole += 1
        for frame in decoded:
            if isinstance(frame, AudioFrame) and frame.samples:
                frames += 1
                yield frame
    if not frames:
        raise AudioError(f"{name} contains no audio that can be decoded; it is empty or damaged: record it again.")
    if broken > whole:
        raise AudioError(f"{name} is damaged: {broken} of {broken + whole} packets cannot be decoded; export it again.")
    if broken:
        log.warning("%s is damaged: %d of %d packets could not be decoded", name, broken, broken + whole)


def _samples_of(frame: AudioFrame) -> NDArray[Any]:
    """The samples of a frame, (n, channels), in its own sample type."""
    array = frame.to_ndarray()
    return array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)


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


def _reason(problem: Exception) -> str:
    """FFmpeg's message without its error number and file name."""
    return str(getattr(problem, "strerror", None) or problem)
