"""Writes finals as SubRip, WebVTT, plain text or JSON. Utterances without text are left out.

`PIECES` writes while the finals come: of finals in order it makes pieces of text, each as soon as its utterance is
known. All pieces joined are the file. There is none before the first final.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from qwen_asr.live.events import Final
from qwen_asr.live.subtitles.cues import Cue, CueLimits, Cues
from qwen_asr.live.subtitles.line_breaks import one_line
from qwen_asr.live.transcript import Transcript, utterance_as_dict

VTT_HEADER = "WEBVTT\n\n"
_LONG_ARROW = re.compile("-{2,}>")


def srt_cue(cue: Cue) -> str:
    """A cue of SubRip."""
    lines = _LONG_ARROW.sub("->", "\n".join(cue.lines))
    return f"{cue.number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{lines}\n\n"


def vtt_cue(cue: Cue) -> str:
    """A cue of WebVTT."""
    lines = _escaped("\n".join(cue.lines))
    return f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{lines}\n\n"


def srt(finals: Iterable[Final], limits: CueLimits | None = None) -> str:
    """SubRip. The format has no escapes, so an arrow in the text, which would start a new cue, is shortened to `->`."""
    return "".join(srt_pieces(_in_order(finals), limits))


def srt_pieces(finals: Iterable[Final], limits: CueLimits | None = None) -> Iterator[str]:
    """SubRip, a piece for each utterance."""
    cues = Cues(limits)
    return ("".join(map(srt_cue, added)) for final in finals if (added := cues.add(final)))


def vtt(finals: Iterable[Final], limits: CueLimits | None = None) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/): `&`, `<` and `>` are escaped."""
    return "".join(vtt_pieces(_in_order(finals), limits))


def vtt_pieces(finals: Iterable[Final], limits: CueLimits | None = None) -> Iterator[str]:
    """WebVTT, a piece for each utterance; the first begins with the header."""
    cues = Cues(limits)
    header = VTT_HEADER
    for final in finals:
        if added := cues.add(final):
            yield header + "".join(map(vtt_cue, added))
            header = ""
    if header:
        yield header


def txt(finals: Iterable[Final]) -> str:
    """Plain text, one line per utterance."""
    return "".join(txt_pieces(_in_order(finals)))


def txt_pieces(finals: Iterable[Final]) -> Iterator[str]:
    """Plain text, a piece for each line."""
    return (f"{text}\n" for final in finals if (text := one_line(final.text)))


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


def pieces_of(form: str, limits: CueLimits | None = None) -> Callable[[Iterable[Final]], Iterator[str]]:
    """Those of a format, with cues within `limits`."""
    of_cues = {"srt": srt_pieces, "vtt": vtt_pieces}.get(form)
    return PIECES[form] if of_cues is None else partial(of_cues, limits=limits)


def _in_order(finals: Iterable[Final]) -> list[Final]:
    return sorted(finals, key=lambda final: (final.start, final.end))


def _time(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
