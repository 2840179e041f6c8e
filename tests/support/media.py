"""Containers with known sound at known times, written with PyAV: late tracks, missing packets, several tracks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

Samples = NDArray[np.float32]


@dataclass
class Track:
    """One audio track. `samples` has the shape (n,) or (n, channels). Packets that begin in a gap are left out."""

    samples: Samples
    rate: int = 16_000
    codec: str = "pcm_s16le"
    layout: str = "mono"
    start: float = 0.0
    gaps: Sequence[tuple[float, float]] = ()
    tags: dict[str, str] = field(default_factory=dict)
    disposition: Disposition | int = 0


def container(form: str, *tracks: Track, options: dict[str, str] | None = None) -> bytes:
    """A container of a format of FFmpeg's with these tracks. Times of packets and gaps count from its zero.

    `options` are those of FFmpeg's muxer.
    """
    target = io.BytesIO()
    with av.open(target, "w", format=form, options=options or {}) as out:
        streams: list[av.AudioStream] = []
        for track in tracks:
            stream: Any = out.add_stream(track.codec, rate=track.rate, layout=track.layout)
            stream.metadata.update(track.tags)
            stream.disposition = Disposition(track.disposition)
            streams.append(stream)
        packets = []
        for track, stream in zip(tracks, streams, strict=True):
            for packet in _encoded(track, stream):
                assert packet.pts is not None
                time = float(packet.pts * packet.time_base) + track.start
                if not any(begin <= time < end for begin, end in track.gaps):
                    packet.pts = packet.dts = packet.pts + round(track.start / packet.time_base)
                    packets.append((time, packet))
        for _, packet in sorted(packets, key=lambda one: one[0]):
            out.mux(packet)
    return target.getvalue()


def _encoded(track: Track, stream: av.AudioStream) -> list[av.Packet]:
    size = track.rate // 50
    packets: list[av.Packet] = []
    for begin in range(0, len(track.samples), size):
        # Not planar: PyAV cannot make planar frames of eight channels.
        block = np.ascontiguousarray(track.samples[begin : begin + size]).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout=track.layout)
        frame.sample_rate, frame.pts, frame.time_base = track.rate, begin, Fraction(1, track.rate)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def tone(seconds: float, bursts: Sequence[float] = (), rate: int = 16_000, level: float = 0.5) -> Samples:
    """Silence with bursts of 1 kHz of 0.1 s that begin at these times; one long tone without any times."""
    t = np.arange(round(seconds * rate)) / rate
    loud = np.zeros(len(t), bool) if bursts else np.ones(len(t), bool)
    for start in bursts:
        loud |= (t >= start) & (t < start + 0.1)
    return (level * np.sin(2 * np.pi * 1000 * t) * loud).astype(np.float32)


def onsets(samples: Samples, rate: int = 16_000) -> list[float]:
    """The times at which sound begins after at least 0.3 s without."""
    loud = np.flatnonzero(np.abs(samples) > 0.1)
    first = np.diff(loud, prepend=-rate) > 0.3 * rate
    return [float(position) / rate for position in loud[first]]


def save(path: Path, content: bytes) -> Path:
    """Writes the content; returns the path."""
    path.write_bytes(content)
    return path


def placed(*parts: tuple[float, Samples], seconds: float) -> Samples:
    """Silence at 16 kHz with sounds that begin at these times."""
    whole = np.zeros(round(seconds * 16_000), np.float32)
    for time, sound in parts:
        begin = round(time * 16_000)
        whole[begin : begin + len(sound)] = sound
    return whole
