"""Opens containers with FFmpeg (PyAV), within bounds of memory and work, and decodes the frames of one track.

FFmpeg only gets open files, because it interprets names as protocols, and may open nothing else for them.
"""

import contextlib
import ctypes
import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.plane import AudioPlane
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from qwen_asr.errors import AudioError

log = logging.getLogger(__name__)

EXPECTED = "expected a recording such as wav, flac, mp3, m4a, ogg, webm or mp4"
# Only these formats are opened. FFmpeg also reads playlists and scripts that name other files and addresses, and an
# upload must not make this machine fetch them.
FORMATS = (
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

_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
"""NumPy's names of FFmpeg's sample formats."""

# PyAV does not wrap this function. The lookup also searches the libraries that its modules are linked with, whatever
# their names, except on Windows: there FFmpeg's own limit stays.
with contextlib.suppress(AttributeError):
    ctypes.CDLL(av.packet.__file__).av_max_alloc(ctypes.c_size_t(_MAX_ALLOCATION))


def opened(file: BinaryIO, name: str, formats: str = FORMATS) -> InputContainer:
    """The container in an open file, from its beginning. `name` is the file's name in messages.

    Only `formats` are opened. Raises `AudioError` for an empty file and for one in another format.
    """
    file.seek(0)
    if not file.read(1):
        raise AudioError(f"{name} is empty; {EXPECTED}.")
    file.seek(0)
    options = {"format_whitelist": formats, "protocol_whitelist": "none", "max_streams": str(_MAX_STREAMS)}
    try:
        return av.open(file, mode="r", options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError, MemoryError) as problem:
        raise AudioError(f"{name} cannot be read as audio ({reason(problem)}); {EXPECTED}.") from None


def frames(container: InputContainer, stream: AudioStream, name: str) -> Iterator[AudioFrame]:
    """Every frame of a track that can be decoded.

    Damaged packets are skipped, counted, and reported at the end: in a log warning, or as `AudioError` if they are more
    than the whole ones or if no frame is left.
    """
    whole = broken = count = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.FFmpegError, MemoryError) as problem:  # damaged: nothing after this point can be found
            log.warning("%s is damaged: reading stopped early (%s)", name, reason(problem))
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
                count += 1
                yield frame
    if not count:
        raise AudioError(f"{name} contains no audio that can be decoded; it is empty or damaged: record it again.")
    if broken > whole:
        raise AudioError(f"{name} is damaged: {broken} of {broken + whole} packets cannot be decoded; export it again.")
    if broken:
        log.warning("%s is damaged: %d of %d packets could not be decoded", name, broken, broken + whole)


def samples_of(frame: AudioFrame) -> NDArray[Any]:
    """The samples of a frame, (n, channels), in its own sample type.

    Not with `frame.to_ndarray`: of planar frames with eight channels or more it reads memory that is not theirs, and
    the process crashes (PyAV 18.1 counts planes until one is null). It has no 64-bit samples either.
    """
    dtype, channels = _TYPES[frame.format.name.removesuffix("p")], frame.layout.nb_channels
    planes = channels if frame.format.is_planar else 1
    count = frame.samples * channels // planes
    buffers: list[Any] = [AudioPlane(frame, index) for index in range(planes)]
    data = [np.frombuffer(buffer, dtype, count) for buffer in buffers]
    return np.stack(data, axis=1) if frame.format.is_planar else data[0].reshape(-1, channels)


def layout_of(frame: AudioFrame) -> tuple[str, ...]:
    """FFmpeg's name of each channel of a frame: "FL", "LFE" … A channel that the file does not name is "NONE".

    Two channels without names are left and right, as in a plain wav.
    """
    names = tuple(channel.name for channel in frame.layout.channels)
    return ("FL", "FR") if names == ("NONE", "NONE") else names


def peak_of(frame: AudioFrame) -> float:
    """The highest level of any channel of a frame; 1 is full scale."""
    array = samples_of(frame)
    if array.dtype == np.uint8:
        return float(np.abs(array.astype(np.int16) - 128).max()) / 128
    scale = 1.0 if array.dtype.kind == "f" else 2.0 ** (8 * array.dtype.itemsize - 1)
    return max(float(array.max()), -float(array.min())) / scale


def reason(problem: Exception) -> str:
    """FFmpeg's message without its error number and file name."""
    return str(getattr(problem, "strerror", None) or problem)
