"""Chooses what to hear of a file: one of its audio tracks, and one channel of it or all of them."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard, Disposition

from qwen_asr.audio.containers import EXPECTED, frames, opened, peak_of
from qwen_asr.errors import AudioError

log = logging.getLogger(__name__)

PROBE_SECONDS = 120.0
"""How much of a track is listened to, to know whether it is silent. It takes less than a second."""
_PROBE_BYTES = 256 << 20
"""Where a file is left, whatever was heard by then. It is half a minute of a film on a disc."""
_MAX_PROBED = 8
"""How many tracks are listened to. A file could have as many as there are streams, and all of them silent."""
SILENT_PEAK = 10 ** (-66 / 20)
"""The highest level of a silent track: -66 dB of full scale, as dither and converters without a source give."""
_BESIDE = Disposition.visual_impaired | Disposition.hearing_impaired | Disposition.comment
"""Tracks beside the film's own: a description of the picture, clearer speech for the hard of hearing, a commentary."""
_CHANNEL_NAMES = {
    "left": ("FL", "DL"),
    "right": ("FR", "DR"),
    "center": ("FC",),
    "centre": ("FC",),
    "mono": ("FC",),
}


@dataclass(frozen=True)
class SoundChoice:
    """What to hear of a file. Everything left out is found: the track that speaks, all its channels.

    track: the number of an audio track, from 1, or the language in its tag. channel: a number from 1, `left`, `right`,
    `center`, or FFmpeg's name (`FL`, `LFE`, `SR` …). track_tags: other tags that mean the same as `track`. spoken_tags:
    tags of the language that is spoken, for the choice between tracks.
    """

    track: int | str | None = None
    channel: int | str | None = None
    track_tags: Collection[str] = ()
    spoken_tags: Collection[str] = ()


def parse_choice(
    track: str | None, channel: str | None, language: str | None, tags_of: Callable[[str], Collection[str]]
) -> SoundChoice:
    """The choice from texts of a user; empty ones are left out. `tags_of` gives all tags of a language."""
    track, channel = (track or "").strip(), (channel or "").strip()
    return SoundChoice(
        track=_number(track),
        channel=_number(channel),
        track_tags=tags_of(track) if track and not _is_number(track) else (),
        spoken_tags=tags_of(language) if language else (),
    )


def chosen_track(container: InputContainer, file: BinaryIO, name: str, choice: SoundChoice) -> AudioStream:
    """The audio track of `container`, which is that of `file`, that `choice` means.

    A track that the user names is taken as it is. Otherwise the first of these is taken that can be decoded and is not
    silent in its first `PROBE_SECONDS`: tracks in the spoken language, FFmpeg's choice (`av_find_best_stream`: the
    default track, the one with more channels), the others in their order, commentaries and the like last. If all are
    silent, the first of them.

    Raises `AudioError` if there is no audio track, none that can be decoded, or not the one that was named; the message
    lists the tracks then.
    """
    tracks = [stream for stream in container.streams if isinstance(stream, AudioStream)]
    if not tracks:
        raise AudioError(f"{name} contains no audio track; {EXPECTED} with sound.")
    if choice.track is not None:
        track = _named_track(tracks, choice, name)
        if track.codec_context is None:
            raise AudioError(f"{_described(track, tracks)} of {name} cannot be decoded; it has {_listed(tracks)}.")
        return track
    ordered = _ordered(tracks, container, choice)
    decodable = [track for track in ordered if track.codec_context is not None]
    for track in ordered:
        if track not in decodable:
            log.warning("%s of %s cannot be decoded", _described(track, tracks), name)
    if not decodable:
        raise AudioError(f"{name} is in an audio format that cannot be decoded; convert it to wav, flac or mp3.")
    if len(decodable) == 1:
        return decodable[0]
    silent: list[AudioStream] = []
    for track in decodable[:_MAX_PROBED]:
        peak = _peak(file, track.index, name)
        if peak is not None and peak > SILENT_PEAK:
            return track
        what = "cannot be decoded" if peak is None else f"is silent, as far as its first {PROBE_SECONDS:g} seconds go"
        log.warning("%s of %s %s: looking for another one", _described(track, tracks), name, what)
        if peak is not None:
            silent.append(track)
    return (silent or decodable)[0]


def channel_index(choice: SoundChoice, layout: Sequence[str], name: str) -> int | None:
    """The index of the chosen channel in a layout, FFmpeg's name of each channel; None for all of them.

    Raises `AudioError` with the channels that there are.
    """
    channel = choice.channel
    if channel is None:
        return None
    if isinstance(channel, int):
        if 1 <= channel <= len(layout):
            return channel - 1
    else:
        for index, one in enumerate(layout):
            if one == channel.upper() or one in _CHANNEL_NAMES.get(channel.lower(), ()):
                return index
    known = ", ".join(f"{number}{'' if one == 'NONE' else f' ({one})'}" for number, one in enumerate(layout, 1))
    raise AudioError(
        f"{name} has no channel {channel!r}; its track has the channels {known}: give a number, left, right, center or "
        "such a name."
    )


def _ordered(tracks: list[AudioStream], container: InputContainer, choice: SoundChoice) -> list[AudioStream]:
    best = container.streams.best("audio")
    tags = set(map(str.casefold, choice.spoken_tags))
    return sorted(
        tracks, key=lambda track: (not _speaks(track, tags), track is not best, bool(track.disposition & _BESIDE))
    )


def _named_track(tracks: list[AudioStream], choice: SoundChoice, name: str) -> AudioStream:
    track = choice.track
    if isinstance(track, int):
        if 1 <= track <= len(tracks):
            return tracks[track - 1]
        wanted = f"audio track {track}"
    else:
        tags = {str(track).casefold(), *map(str.casefold, choice.track_tags)}
        for one in tracks:
            if _speaks(one, tags):
                return one
        wanted = f"audio track in the language {track!r}"
    raise AudioError(f"{name} has no {wanted}; it has {_listed(tracks)}: give one of these numbers or languages.")


def _speaks(track: AudioStream, tags: Collection[str]) -> bool:
    """Whether the language of a track, an ISO 639 code or a BCP 47 tag, is one of `tags`, which are in lower case."""
    tag = track.metadata.get("language", "").casefold().replace("_", "-")
    return bool(tag) and (tag in tags or tag.partition("-")[0] in tags)


def _peak(file: BinaryIO, index: int, name: str) -> float | None:
    """The highest level in the first part of a track, up to the first that is not silent; None without any sound.

    The track is read in a container of its own, so that the other one stays at its beginning.
    """
    position = file.tell()
    try:
        with opened(file, name) as container:
            for stream in container.streams:
                if stream.index != index:
                    stream.discard = Discard.all  # FFmpeg then need not read the picture
            track = cast(AudioStream, container.streams[index])
            peak, seconds = None, 0.0
            for frame in frames(container, track, name):
                peak = max(peak or 0.0, peak_of(frame))
                seconds += frame.samples / frame.sample_rate
                if peak > SILENT_PEAK or seconds > PROBE_SECONDS or file.tell() > _PROBE_BYTES:
                    break
            return peak
    except (AudioError, av.FFmpegError):  # reported by the caller
        return None
    finally:
        file.seek(position)


def _described(track: AudioStream, tracks: list[AudioStream]) -> str:
    return f"Track {tracks.index(track) + 1}"


def _listed(tracks: list[AudioStream]) -> str:
    """All tracks in words, for a message."""
    parts = []
    for number, track in enumerate(tracks, 1):
        codec = track.codec_context
        channels = "" if codec is None else f"{codec.channels} channel{'s' * (codec.channels != 1)}"
        known = (
            track.metadata.get("language", "no language"),
            repr(title) if (title := track.metadata.get("title")) else "",
            "a codec that cannot be decoded" if codec is None else codec.name,
            channels,
        )
        parts.append(f"{number} ({', '.join(filter(None, known))})")
    return "; ".join(parts)


def _number(text: str) -> int | str | None:
    """The number that a text is, or the text; None if it is empty."""
    return int(text) if _is_number(text) else text or None


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 10
