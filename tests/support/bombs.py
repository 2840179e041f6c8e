"""Small files that make a careless decoder take gigabytes, or read what they name."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HOUR = 3600


def silent_flac(seconds: int = HOUR, rate: int = 16_000) -> bytes:
    """Silence: about 45 kB for an hour at 16 kHz."""
    target = io.BytesIO()
    with av.open(target, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=rate, layout="mono", options={"frame_size": "65535"})
        block = np.zeros((1, 65_535), np.int16)
        for begin in range(0, seconds * rate, block.shape[1]):
            frame = av.AudioFrame.from_ndarray(block[:, : seconds * rate - begin], format="s16", layout="mono")
            frame.sample_rate = rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


def wav_header(data_bytes: int, *, rate: int = 16_000, channels: int = 1, kind: int = 1, bits: int = 16) -> bytes:
    """The header of a wav file that announces so many bytes of samples."""
    align = channels * bits // 8
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, kind, channels, rate, rate * align & 0xFFFFFFFF, align, bits)
    body = b"WAVE" + layout + struct.pack("<4sI", b"data", data_bytes)
    return struct.pack("<4sI", b"RIFF", min(0xFFFFFFFF, len(body) + data_bytes)) + body


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _track(number: int, samples: int) -> bytes:
    """An AAC track that announces so many frames of one byte, in one chunk."""
    esds = bytes.fromhex("0000000003190001000411401500000000000000000000000005021408060102")
    entry = struct.pack(">6xH8xHHHHI", 1, 1, 16, 0, 0, 16_000 << 16)
    return _box(
        b"trak",
        _box(b"tkhd", struct.pack(">IIIIII60x", 1, 0, 0, number, 0, 0)),
        _box(
            b"mdia",
            _box(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, 16_000, 0, 0x55C4, 0)),
            _box(b"hdlr", struct.pack(">II4s12xx", 0, 0, b"soun")),
            _box(
                b"minf",
                _box(
                    b"stbl",
                    _box(b"stsd", struct.pack(">II", 0, 1), _box(b"mp4a", entry, _box(b"esds", esds))),
                    _box(b"stts", struct.pack(">IIII", 0, 1, samples, 1024)),
                    _box(b"stsc", struct.pack(">IIIII", 0, 1, 1, samples, 1)),
                    _box(b"stsz", struct.pack(">III", 0, 1, samples)),
                    _box(b"stco", struct.pack(">III", 0, 1, 32)),
                ),
            ),
        ),
    )


def mp4_index(samples: int = 80_000_000, tracks: int = 1) -> bytes:
    """An mp4 of under a kilobyte for each track, whose index takes 24 bytes for each sample that it announces."""
    movie = _box(b"mvhd", struct.pack(">IIIII80x", 0, 0, 0, 1000, 0))
    return (
        _box(b"ftyp", b"M4A \0\0\0\0")
        + _box(b"free", bytes(8))
        + _box(b"moov", movie, *(_track(number + 1, samples) for number in range(tracks)))
        + _box(b"mdat", bytes(64))
    )


def mp4_compressed_header(size: int = 1 << 30) -> bytes:
    """An mp4 whose header is compressed a thousand times."""
    squeezed = zipped_zeros(size)
    return _box(b"ftyp", b"qt  \0\0\0\0") + _box(
        b"moov",
        _box(b"cmov", _box(b"dcom", b"zlib"), _box(b"cmvd", struct.pack(">I", size), squeezed)),
    )


def mp3_compressed_cover(size: int = 200 << 20) -> bytes:
    """An mp3 with a compressed cover picture in its ID3 tag."""
    squeezed = zipped_zeros(size)
    frame = b"APIC" + struct.pack(">IH", len(squeezed) + 4, 0x0080) + struct.pack(">I", size) + squeezed
    length = len(frame)
    sync_safe = bytes((length >> shift) & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + sync_safe + frame + (b"\xff\xfb\x90\x00" + bytes(413)) * 20


def avi_of_one_chunk(sound: bytes) -> bytes:
    """An avi whose sound, 8 bits at 8 kHz, is a single packet."""
    size = len(sound)
    header = (
        struct.pack("<4s4sI4sI", b"auds", bytes(4), 0, bytes(4), 0)
        + struct.pack("<IIIIIII", 1, 8_000, 0, size, size, 0, 1)
        + bytes(8)
    )
    layout = struct.pack("<HHIIHH", 1, 1, 8_000, 8_000, 1, 8)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack("<4sI", kind, len(body)) + body

    main = chunk(b"avih", struct.pack("<14I", 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0))
    stream = chunk(b"LIST", b"strl" + chunk(b"strh", header) + chunk(b"strf", layout))
    body = b"AVI " + chunk(b"LIST", b"hdrl" + main + stream) + chunk(b"LIST", b"movi" + chunk(b"00wb", sound))
    return chunk(b"RIFF", body)


def zipped_zeros(size: int) -> bytes:
    """So many zeros, a thousand times smaller."""
    squeezer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [squeezer.compress(block) for _ in range(size >> 20)]
    return b"".join([*parts, squeezer.flush()])


def naming(path: Path, url: str) -> dict[str, bytes]:
    """Files that name another file or an address: file name → content."""
    sdp = f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {url.rpartition(':')[2]} RTP/AVP 0\n"
    dash = (
        f'<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet mimeType="audio/mp4"><BaseURL>{url}/</BaseURL>'
    )
    playlists: dict[str, str] = {}
    for kind, target in {"file": f"file:{path}", "path": str(path), "http": f"{url}/a.wav"}.items():
        playlists |= {
            f"{kind}.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
            f"{kind}.ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
            f"{kind}.m3u": f"#EXTM3U\n{target}\n",
            f"{kind}.asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
            f"{kind}.url.wav": f"[Reference]\nRef1={target}\n",
            f"{kind}.mov": target,
        }
    playlists |= {"stream.sdp": sdp, "stream.mpd": dash + "</AdaptationSet></Period></MPD>"}
    return {name: text.encode() for name, text in playlists.items()}


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    crc, top, mask = 0, 1 << bits - 1, (1 << bits) - 1
    for byte in data:
        crc ^= byte << bits - 8
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & top else crc << 1) & mask
    return crc


def flac_of_rates(rates: list[int]) -> bytes:
    """A FLAC file with one frame of 16 samples for each rate in Hz, which its header names (RFC 9639, section 9.1)."""
    info = struct.pack(">HH", 16, 256) + bytes(6) + struct.pack(">Q", 16_000 << 44 | 15 << 36) + bytes(16)
    parts = [b"fLaC", bytes([0x80, 0, 0, len(info)]), info]
    for number, rate in enumerate(rates):
        head = bytes([0xFF, 0xF8, 6 << 4 | 13, 4 << 1, number, 15]) + struct.pack(">H", rate)
        frame = head + bytes([_crc(head, 7, 8)]) + bytes(3)  # the samples are all zero
        parts += [frame, struct.pack(">H", _crc(frame, 0x8005, 16))]
    return b"".join(parts)


def matroska_of_gaps(hours: list[float]) -> bytes:
    """Packets of 10 ms of silence at these hours."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for hour in hours:
            packet = av.Packet(bytes(320))
            packet.stream, packet.time_base, packet.pts = stream, Fraction(1, 1000), round(hour * 3_600_000)
            packet.dts = packet.pts
            container.mux(packet)
    return target.getvalue()


def matroska_of_broken_packets(whole: int, broken: int) -> bytes:
    """Packets of 10 ms of silence, and after them packets of one byte that cannot be decoded."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for number in range(whole + broken):
            packet = av.Packet(bytes(320) if number < whole else b"x")
            packet.stream, packet.time_base, packet.pts = stream, Fraction(1, 16_000), 160 * number
            packet.dts = packet.pts
            container.mux(packet)
    return target.getvalue()
