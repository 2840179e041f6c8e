"""Writes finals as SubRip, WebVTT, plain text or JSON. Utterances without text are left out.

`PIECES` writes while the finals come: of finals in order it makes pieces of text, each as soon as its utterance is
known. All pieces joined are the file. There is none before the first final.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.events import Final
from qwen_asr.live.transcript import Transcript, utterance_as_dict

VTT_HEADER = "WEBVTT\n\n"


@dataclass(frozen=True)
class Cue:
    """A cue of subtitles, numbered from 1. Times are in milliseconds; the text is one line."""

    number: int
    start: int
    end: int
    text: str


class Cues:
    """Makes the cues of finals that come in order. No cue begins before the one before it has ended."""

    def __init__(self) -> None:
        self._count = 0
        self._latest = 0

    def add(self, final: Final) -> Cue | None:
        """The cue of the next final; None if it has no text."""
        text = _one_line(final.text)
        if not text:
            return None
        start = max(self._latest, _milliseconds(final.start))
        self._latest = max(start + 1, _milliseconds(final.end))
        self._count += 1
        return Cue(self._count, start, self._latest, text)


def srt_cue(cue: Cue) -> str:
    """A cue of SubRip."""
    text = cue.text.replace("-->", "->")
    return f"{cue.number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{text}\n\n"


def vtt_cue(cue: Cue) -> str:
    """A cue of WebVTT."""
    return f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_escaped(cue.text)}\n\n"


def srt(finals: Iterable[Final]) -> str:
    """SubRip. The format has no escapes, so an arrow in the text, which would start a new cue, is shortened to `->`."""
    return "".join(srt_pieces(_in_order(finals)))


def srt_pieces(finals: Iterable[Final]) -> Iterator[str]:
    """SubRip, a piece for each cue."""
    return map(srt_cue, _cues(finals))


def vtt(finals: Iterable[Final]) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/): `&`, `<` and `>` are escaped."""
    return "".join(vtt_pieces(_in_order(finals)))


def vtt_pieces(finals: Iterable[Final]) -> Iterator[str]:
    """WebVTT, a piece for each cue; the first begins with the header."""
    header = VTT_HEADER
    for cue in _cues(finals):
        yield header + vtt_cue(cue)
        header = ""
    if header:
        yield header


def txt(finals: Iterable[Final]) -> str:
    """Plain text, one line per utterance."""
    return "".join(txt_pieces(_in_order(finals)))


def txt_pieces(finals: Iterable[Final]) -> Iterator[str]:
    """Plain text, a piece for each line."""
    return (f"{cue.text}\n" for cue in _cues(finals))


def as_json(finals: Iterable[Final]) -> str:
    """`Transcript.as_dict` as JSON: utterances with times in seconds, text, language."""
    return "".join(json_pieces(finals))


def json_pieces(finals: Iterable[Final], file: str | None = None) -> Iterator[str]:
    """A JSON object, a piece for each utterance. Text and language of all follow at the end. `file` adds a name."""
    transcript = Transcript()
    before = "{\n" + ("" if file is None else f'  "file": {_json(file)},\n') + '  "utterances": ['
    after = "],\n"
    for final in finals:
        transcript.add(final)
        if final.text:
            yield f"{before}\n    " + _utterance_json(final).replace("\n", "\n    ")
            before, after = ",", "\n  ],\n"
    yield ("" if before == "," else before) + (
        f'{after}  "text": {_json(transcript.text)},\n  "language": {_json(transcript.language)}\n}}\n'
    )


def _utterance_json(final: Final) -> str:
    """`utterance_as_dict` as JSON, with a line for each word."""
    utterance = utterance_as_dict(final)
    words = utterance.pop("words", [])
    written = _json(utterance)
    if not words:
        return written
    lines = ",\n".join(f"    {json.dumps(word, ensure_ascii=False)}" for word in words)
    return written.removesuffix("\n}") + f',\n  "words": [\n{lines}\n  ]\n}}'


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


PIECES: dict[str, Callable[[Iterable[Final]], Iterator[str]]] = {
    "txt": txt_pieces,
    "srt": srt_pieces,
    "vtt": vtt_pieces,
    "json": json_pieces,
}
"""The pieces of each format."""


def _in_order(finals: Iterable[Final]) -> list[Final]:
    return sorted(finals, key=lambda final: (final.start, final.end))


def _cues(finals: Iterable[Final]) -> Iterator[Cue]:
    cues = Cues()
    return (cue for final in finals if (cue := cues.add(final)) is not None)


def _one_line(text: str) -> str:
    """Removes line breaks, which would end a cue or line, and control characters, which some players cannot handle."""
    spaced = " ".join(text.split())
    return "".join(character for character in spaced if unicodedata.category(character) != "Cc").strip()


def _milliseconds(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE


def _time(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
