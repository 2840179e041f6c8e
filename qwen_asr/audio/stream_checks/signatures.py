"""What the bytes of a stream are for certain, by their first bytes: a file format or text where raw samples belong.

Each signature has at least 32 bits, or repeats, so that no audio looks like it by chance. The formats' own documents
give the signatures: RFC 9559 (Matroska, WebM), RFC 3533 (Ogg), RFC 9639 (FLAC), ISO/IEC 14496-12 (MP4),
ISO/IEC 11172-3 (MP3), ISO/IEC 13818-7 (ADTS), id3.org (ID3v2), RFC 2361 and Microsoft's WAVEFORMATEX (WAV).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from qwen_asr.errors import AudioError

HEAD_BYTES = 4_096
"""How much of a stream's beginning `name_of` looks at: three of the longest MP3 frames."""
_HELD_BYTES = 1 << 16
"""How long the header of a WAV file may be: cover art and cue sheets come before the samples."""

_SIGNATURES = {
    b"\x1a\x45\xdf\xa3": "WebM or Matroska",
    b"\x1f\x43\xb6\x75": "WebM or Matroska",  # a cluster: the file without its beginning
    b"OggS\0": "Ogg",
    b"fLaC": "FLAC",
    b"ID3\2\0": "MP3",
    b"ID3\3\0": "MP3",
    b"ID3\4\0": "MP3",
    b"caff\0\1": "CAF",
    b".snd\0\0\0": "AU",
    b"#!AMR": "AMR",
    b"data:audio/": "a data URL",
}
_CHUNKED = {(b"RF64", b"WAVE"): "WAV", (b"FORM", b"AIFF"): "AIFF", (b"FORM", b"AIFC"): "AIFF"}
_MP4_BOXES = (b"ftyp", b"styp", b"moof", b"sidx")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]{256,}=*\s*")
_JSON = re.compile(rb'\s*[{\[]\s*["{]')
_BITRATES = {  # of MPEG audio layer III in kbit/s, by version
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    0: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
JSON_MESSAGE = re.compile(rb'\{\s*"(type|event|audio)"\s*:\s*"')
"""The beginning of a JSON message of this and of other services: at least 72 bits."""


def name_of(head: bytes) -> str | None:
    """What a stream that begins with these bytes certainly is; None if it may be raw samples."""
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return name
    if head[4:8] in _MP4_BOXES:
        return "MP4"
    if (head[:4], head[8:12]) in _CHUNKED:
        return _CHUNKED[head[:4], head[8:12]]
    if _chain_length(head, _mp3_frame_bytes) >= 3:
        return "MP3"
    if _chain_length(head, _adts_frame_bytes) >= 3:
        return "AAC (ADTS)"
    if JSON_MESSAGE.match(head):
        return "JSON"
    if len(head) >= 256 and _JSON.match(head) and _is_text(head[:256]):
        return "JSON"
    if (text := _BASE64.match(head)) and len(set(text.group())) > 20:
        return "base64 text"
    return None


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n" for byte in head)


def _chain_length(head: bytes, frame_bytes: Callable[[bytes], int]) -> int:
    """How many frames follow each other from the first byte on, as far as their headers are in `head`."""
    position = count = 0
    while size := frame_bytes(head[position : position + 6]):
        position, count = position + size, count + 1
    return count


def _mp3_frame_bytes(header: bytes) -> int:
    """The length of the MPEG layer III frame with this header; 0 if it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return 0
    samples = 144 if version == 3 else 72
    return samples * _BITRATES[version][bitrate] * 1000 // _MPEG_RATES[version][rate] + (header[2] >> 1 & 1)


def _adts_frame_bytes(header: bytes) -> int:
    """The length of the ADTS frame with this header; 0 if it is none."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return 0
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return size if size > 7 else 0


@dataclass(frozen=True)
class WavHeader:
    """The header of a WAV file: `size` bytes up to the first sample."""

    size: int
    encoding: str
    """ffmpeg's name of the sample format."""
    channels: int
    rate: int


_WAV_ENCODINGS = {
    (1, 8): "u8",
    (1, 16): "s16le",
    (1, 24): "s24le",
    (1, 32): "s32le",
    (3, 32): "f32le",
    (3, 64): "f64le",
}
_WAV_ENCODINGS |= {(6, 8): "alaw", (7, 8): "mulaw"}
_EXTENSIBLE = 0xFFFE


def may_be_wav(head: bytes) -> bool:
    """Whether a stream that begins with these bytes is a WAV file, or may turn out to be one."""
    return head[:4] == b"RIFF"[: len(head)] and head[8:12] == b"WAVE"[: max(0, len(head) - 8)]


def read_wav_header(head: bytes) -> WavHeader | None:
    """The header of the WAV file that begins with `head`; None while it is not complete.

    Raises `AudioError` if the header is damaged, or longer than 64 KiB.
    """
    position, layout = 12, None
    while position + 8 <= len(head):
        name, size = head[position : position + 4], struct.unpack_from("<I", head, position + 4)[0]
        begin = position + 8
        if name == b"data":
            if layout is None:
                raise AudioError("The stream is a WAV file without a format; expected raw samples.")
            tag, channels, rate, bits = layout
            return WavHeader(begin, _WAV_ENCODINGS.get((tag, bits), f"format {tag} of {bits} bits"), channels, rate)
        if name == b"fmt " and size >= 16 and begin + size <= len(head):
            tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head, begin)
            if tag == _EXTENSIBLE and size >= 26:
                [tag] = struct.unpack_from("<H", head, begin + 24)
            layout = (tag, channels, rate, bits)
        position = begin + size + size % 2
    if len(head) > _HELD_BYTES or position > _HELD_BYTES:
        raise AudioError("The stream is a WAV file without samples in its first 64 KiB; expected raw samples.")
    return None
